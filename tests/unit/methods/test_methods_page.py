"""The page of the methods holds the exchange table as the registry has it."""

from pathlib import Path

from potara_flwr.methods import METHODS
from potara_flwr.methods.docs_table import exchange_table

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "methods.md"


def test_the_page_has_the_generated_table():
    assert exchange_table() in PAGE.read_text()


def test_every_method_is_a_row_with_what_it_sends():
    rows = exchange_table().splitlines()[2:]
    assert len(rows) == len(METHODS)
    cells = {
        row.split("|")[1].strip(" `"): [cell.strip() for cell in row.split("|")] for row in rows
    }
    assert cells["fedit"][3:5] == ["A, B, head", "m·(r·d_in + r·d_out) + h"]
    assert cells["ffa_lora"][3:5] == ["B, head", "m·r·d_out + h"]
    assert cells["fedsa_lora"][3:6] == ["A", "m·r·d_in", "its B and head"]
    assert cells["fedalt"][4] == "m·(r·d_in + r·d_out)"
    assert cells["local"][3:5] == ["nothing", "0"]
    assert cells["ditto"][6:8] == ["(R·E + S) / 2E", "2 × E a round"]
