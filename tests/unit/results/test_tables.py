"""The tables of a run: what is in them, and that they fit a terminal."""

from __future__ import annotations

import io

import numpy as np
import pytest
from results_example import example_results
from rich.console import Console
from rich.table import Table

from potara_flwr.results.figures import FIGURES, figures_of
from potara_flwr.results.tables import (
    byte_unit,
    client_table,
    client_tables,
    interval,
    marked_weight,
    percent,
    remarks,
    rule_names,
    scientific,
    summary_rows,
    summary_table,
)


def printed(table: Table, width: int = 100) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_rule_names_come_from_the_data() -> None:
    results = example_results(2, rules=("mine", "yours"))

    assert rule_names(results) == ["mine", "yours"]


def test_a_rule_that_only_one_client_has_is_listed() -> None:
    results = example_results(2, rules=("mine",))
    results["clients"][1]["weights"]["late"] = 0.25

    row = next(row for row in summary_rows(results) if row.name == "late")

    assert row.weight == 0.25
    assert row.accuracy is None


def test_summary_has_its_rows_in_order() -> None:
    results = example_results(3, rules=("mine", "yours"))

    labels = [row.label for row in summary_rows(results)]

    assert labels == [
        "initial",
        "federated",
        "local",
        "mine (chosen)",
        "yours",
        "oracle (sees test data)",
    ]


def test_summary_numbers_are_those_of_the_results() -> None:
    results = example_results(4)
    summary = results["summary"]
    chosen = next(row for row in summary_rows(results) if row.note == "chosen")

    assert chosen.name == "excess-loss"
    assert chosen.accuracy == summary["mean"]["accuracy"]["excess-loss"]
    assert chosen.weighted_accuracy == summary["weighted_mean"]["accuracy"]["excess-loss"]
    assert chosen.regret == summary["regret"]["excess-loss"]["accuracy"]
    assert chosen.weight == pytest.approx(
        sum(client["weights"]["excess-loss"] for client in results["clients"]) / 4
    )


def test_personalized_has_a_row_only_where_it_is_not_the_rules() -> None:
    plain, local = example_results(2), example_results(2, rounds=0, reason="no round was run")

    assert "personalized" not in [row.name for row in summary_rows(plain)]
    row = next(row for row in summary_rows(local) if row.name == "personalized")
    assert row.weight == 0.0
    assert row.accuracy == local["summary"]["mean"]["accuracy"]["local"]


def test_summary_table_says_that_the_oracle_sees_test_data_and_shows_points() -> None:
    results = example_results(2)
    results["summary"]["regret"]["excess-loss"]["accuracy"] = 0.0214

    text = printed(summary_table(results))

    assert "oracle (sees test data)" in text
    line = next(line for line in text.splitlines() if "chosen" in line)
    assert line.split()[-1] == "2.1"


@pytest.mark.parametrize("clients", [1, 2, 20])
@pytest.mark.parametrize("width", [80, 100])
def test_tables_fit_without_cutting_anything(clients: int, width: int) -> None:
    results = example_results(clients, reason="no federated round was run")

    for table in (summary_table(results), client_table(results)):
        text = printed(table, width)
        assert max(len(line.rstrip()) for line in text.splitlines()) <= width
        assert "…" not in text


def test_client_table_has_a_row_per_client() -> None:
    results = example_results(3)
    client = results["clients"][2]

    rows = [line.split() for line in printed(client_table(results)).splitlines()]
    row = next(row for row in rows if row[:1] == ["2"])

    assert row == [
        "2",
        str(client["num_train"]),
        f"{client['personalized']['weight']:.2f}",
        interval(client),
        *(scientific(client["traces"][key]) for key in ("federated", "local", "cross")),
        percent(client["accuracy"]["federated"]),
        percent(client["accuracy"]["local"]),
        percent(client["personalized"]["accuracy"]),
    ]


def test_client_table_gives_a_reason_as_it_is_written() -> None:
    text = printed(client_table(example_results(2, reason="[red]odd[/red] markup")))

    assert text.count("0.00*") == 2
    assert text.count("* every client: [red]odd[/red] markup") == 1


def test_tables_without_clients_are_empty_but_whole() -> None:
    results = example_results(0, rounds=0)

    assert "federated" in printed(summary_table(results))
    assert "alized" in printed(client_table(results))


def test_remarks_name_their_clients_and_mark_their_weights() -> None:
    results = example_results(3)
    first, second, _ = results["clients"]
    first["personalized"] |= {"weight": 0.0, "reason": "the merge is worse"}
    for client in (first, second):
        client["diagnosis"]["warning"] = "leans to the wrong side"

    assert remarks(results) == [
        ("*", "client 0", "the merge is worse"),
        ("!", "clients 0, 1", "leans to the wrong side"),
    ]
    assert marked_weight(first) == "0.00*!"
    assert marked_weight(second).endswith("!")


def test_an_interval_is_short() -> None:
    client = {"diagnosis": {"low": 0.214, "high": 1.0}}
    assert interval(client) == ".21–1.00"


def test_numbers_of_any_magnitude_are_short() -> None:
    values = [0, 0.0123, 0.5, 3.456, 999.4, 123456.0, 1e-12, None]

    texts = [scientific(value) for value in values]

    assert texts == ["0", "1.2e-2", "0.5", "3.46", "999", "1.2e5", "1.0e-12", "–"]


@pytest.mark.parametrize(
    ("count", "name"), [(0, "bytes"), (999, "bytes"), (1000, "kB"), (2.5e6, "MB"), (1e9, "GB")]
)
def test_byte_unit(count: float, name: str) -> None:
    assert byte_unit(count)[1] == name


def test_what_was_not_compared_is_not_shown() -> None:
    results = example_results(3, rules=("mine", "yours"))
    singles = ("initial", "federated", "local")
    for client in results["clients"]:
        del client["grid"], client["weights"]["oracle"]
        for metric in ("accuracy", "loss"):
            client[metric] = {name: client[metric][name] for name in singles}
    del results["summary"]["regret"]

    assert [row.label for row in summary_rows(results)] == [*singles, "personalized (chosen)"]
    text = printed(summary_table(results))
    assert "regret" not in text
    assert "λ" in text
    assert set(figures_of(results)) == set(FIGURES) - {"accuracy-along-weight"}


def test_of_many_clients_the_terminal_has_quantiles_and_those_that_end_lowest() -> None:
    results = example_results(300)
    spread, lowest = client_tables(results)
    text = printed(spread, 80)
    own = [client["personalized"]["accuracy"] for client in results["clients"]]
    line = next(line for line in text.splitlines() if "personalized" in line)
    assert line.split()[-7:] == [
        percent(float(np.quantile(own, at))) for at in (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)
    ]
    assert max(map(len, text.splitlines())) <= 80
    assert lowest.row_count == 10
    worst = results["clients"][int(np.argmin(own))]
    assert next(iter(lowest.columns[0].cells)).plain == str(worst["client"])


def test_of_few_clients_the_terminal_has_each() -> None:
    results = example_results(40)
    assert [table.row_count for table in client_tables(results)] == [40]


def test_a_remark_on_many_clients_names_few_of_them() -> None:
    results = example_results(300)
    for client in results["clients"][:200]:
        client["diagnosis"]["warning"] = "leans"
    names = "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 190 more"
    assert remarks(results) == [("!", f"200 clients: {names}", "leans")]
