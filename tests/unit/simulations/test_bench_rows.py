"""The table of benchmarks: what is measured anew takes the place of its rows, the others stay."""

import pytest

from simulations.bench import page as page_module
from simulations.bench.__main__ import main
from simulations.bench.many_clients import Size, growth
from simulations.bench.page import GPU_PARTS, PAGE, open_parts, with_parts, with_rows, write
from simulations.bench.rows import Row, Seen

TABLE = """# Benchmarks

| ratio | median | range | aim | met |
|---|---|---|---|---|
| a message (6.7 s over 5.1 s) | 1.317 | 1.273 – 1.363 | – | – |
| memory | 1.003 | 1.003 – 1.003 | ≤ 1.05 | yes |
"""


def test_a_row_that_is_measured_anew_takes_the_place_of_the_old():
    rows = [Row("a message (3.0 s over 2.0 s)", [1.5, 1.4, 1.7], 1.2, "slow"), Row("new", [1], 1)]
    assert with_rows(TABLE, "ratio", rows) == [
        "| a message (3.0 s over 2.0 s) | 1.500 | 1.400 – 1.700 | ≤ 1.2 | no: slow |",
        "| memory | 1.003 | 1.003 – 1.003 | ≤ 1.05 | yes |",
        "| new | 1.000 | 1.000 – 1.000 | ≤ 1 | yes |",
    ]


SIZES = """
## Many clients

| clients | seconds | ms a client | peak | results.json | report.html | checkpoint |
|---|---|---|---|---|---|---|
| 100 | 18 | 180 | 700 | 0.20 | 0.30 | 0.06 |
| 1,000 | 180 | 180 | 720 | 2.00 | 0.60 | 0.63 |

And more text.
"""


def test_each_table_of_the_page_keeps_its_own_rows():
    size = Size(1000, 170.0, 710.4, 2_100_000, 650_000, 600_000)
    rows = [Row("memory", [1.0], None), size]
    page = TABLE + SIZES
    assert with_rows(page, "clients", rows) == [
        "| 100 | 18 | 180 | 700 | 0.20 | 0.30 | 0.06 |",
        "| 1,000 | 170 | 170 | 710 | 2.10 | 0.65 | 0.60 |",
    ]
    ratios = with_rows(page, "ratio", rows)
    assert [line.split(" | ")[0] for line in ratios] == [
        "| a message (6.7 s over 5.1 s)",
        "| memory",
    ]
    assert ratios[1].startswith("| memory | 1.000 |")


def test_a_table_without_rows_takes_the_first():
    assert with_rows(TABLE, "clients", [Size(9, 1.0, 2.0, 0, 0, 0)]) == [
        "| 9 | 1 | 111 | 2 | 0.00 | 0.00 | 0.00 |"
    ]


def test_growth_is_what_a_further_client_takes_and_the_memory_of_many_over_few():
    start, a_client, memory = 5.0, 0.2, 600.0
    found = [
        Size(n, start + a_client * n, memory + n / 1024 * 80, 0, 0, 0) for n in (100, 400, 1000)
    ]
    seconds, *peaks = growth(found)
    assert seconds.what.endswith("400 to 1,000 clients over 100 to 400 (0.200 s over 0.200 s)")
    assert seconds.ratios == pytest.approx([1.0])
    assert [row.ratios[0] for row in peaks] == pytest.approx(
        [one.peak / found[0].peak for one in found[1:]]
    )
    assert all("80 kB a further client" in row.what for row in peaks)
    assert list(growth(found[:1])) == []


def test_a_part_whose_model_is_not_named_says_what_it_needs(capsys):
    with pytest.raises(SystemExit) as error:
        main(["--only", "weight-phase"])
    assert error.value.code == 2
    assert "needs --language-model and --language-data" in capsys.readouterr().err


def seen(part, what, *values, **more):
    return Seen(part, what, values, more.pop("aim", None), "a GPU, torch 9", **more)


def test_what_a_gpu_has_shown_is_held_against_its_aim():
    row = seen(
        "speed", "a client (9 over 10 tokens a second)", 0.98, 0.95, 0.99, aim=0.97, at_least=True
    )
    assert str(row) == (
        "| speed: a client (9 over 10 tokens a second) | 0.98 | 0.95 – 0.99 | ≥ 0.97 | yes "
        "| a GPU, torch 9 |"
    )
    assert "| ≤ 0.0001 | no |" in str(seen("float32", "losses", 2e-4, aim=1e-4))


def test_a_part_of_the_gpu_takes_the_place_of_all_its_rows(tmp_path, monkeypatch):
    place = tmp_path / "benchmarks.md"
    place.write_text(PAGE.read_text())
    monkeypatch.setattr(page_module, "PAGE", place)
    write([seen("speed", "one", 1.0), seen("speed", "two", 1.0)])
    write([seen("4-bit", "base model", words="bitsandbytes is not installed")])
    write([seen("speed", "three", 2.0)])
    page = place.read_text()
    lines = with_parts(page, [])
    assert [line.split(" | ")[0] for line in lines] == ["| 4-bit: base model", "| speed: three"]
    assert len(open_parts(lines)) == len(GPU_PARTS) - 2
    assert page.count("Not measured yet") == 1
    assert "No GPU was at hand" not in page
    rows = with_rows(PAGE.read_text(), Row.table, [])
    assert rows
    assert with_rows(page, Row.table, []) == rows
    assert [line for line in page.splitlines() if line.startswith("On ")] == [
        line for line in PAGE.read_text().splitlines() if line.startswith("On ")
    ]


def test_the_page_says_what_no_gpu_has_shown():
    lines = with_parts(PAGE.read_text(), [])
    for part in open_parts(lines):
        assert f"- {part}\n" in PAGE.read_text()
