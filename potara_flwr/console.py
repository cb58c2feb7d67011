"""The tables of a run: first as plain rows, which the report shares, then for a terminal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

Results = dict[str, Any]
"""The contents of ``results.json``."""

ORACLE = "oracle"
NONE = "–"
"""What a table shows where there is no number."""


@dataclass(frozen=True)
class SummaryRow:
    """One adapter of all clients. Accuracies are fractions; what does not exist is None."""

    name: str
    note: str
    """``chosen``, what the reader must know of the row, or empty."""
    accuracy: float | None
    """Mean over clients."""
    weighted_accuracy: float | None
    """Mean over test examples."""
    loss: float | None
    weight: float | None
    """Mean λ over clients: 1 is all federated, 0 all local."""
    regret: float | None
    """Mean accuracy lost against the oracle, a fraction."""

    @property
    def label(self) -> str:
        """Name and note."""
        return f"{self.name} ({self.note})" if self.note else self.name


def rule_names(results: Results) -> list[str]:
    """Return the merge rules that the clients report, in their order, without the oracle."""
    names = {name: None for client in results["clients"] for name in client["weights"]}
    return [name for name in names if name != ORACLE]


def summary_rows(results: Results) -> list[SummaryRow]:
    """Return initial, federated, local, every rule and the oracle.

    Where a client's personalized adapter is not the chosen rule's, it has a row of its own.
    """
    chosen = results["config"]["merge"]["rule"]
    clients = results["clients"]
    weights: dict[str, float | None] = {"federated": 1.0, "local": 0.0}
    for name in [*rule_names(results), ORACLE]:
        weights[name] = _mean([client["weights"].get(name) for client in clients])
    weights["personalized"] = _mean([client["personalized"]["weight"] for client in clients])
    notes = {chosen: "chosen", ORACLE: "sees test data", "personalized": "saved"}
    names = ["initial", "federated", "local", *rule_names(results)]
    if any(client["personalized"]["reason"] for client in clients):
        names.append("personalized")
    return [_summary_row(results, name, notes, weights) for name in [*names, ORACLE]]


def summary_table(results: Results) -> Table:
    """Return what every adapter and rule is worth over all clients, as a table for a terminal."""
    table = _table("Test scores over all clients")
    for header in (
        "mean\naccuracy %",
        "example-\nweighted\naccuracy %",
        "mean\nloss",
        "mean λ",
        "regret\n(points)",
    ):
        table.add_column(header, justify="right")
    for row in summary_rows(results):
        table.add_row(
            Text(row.label),
            percent(row.accuracy),
            percent(row.weighted_accuracy),
            number(row.loss, 3),
            number(row.weight),
            percent(row.regret),
            style="bold" if row.note == "chosen" else "dim" if row.name == ORACLE else None,
        )
    return table


def client_table(results: Results) -> Table:
    """Return one row per client, as a table for a terminal.

    λ is that of the personalized adapter: ``*`` marks those that are not the rule's, ``!`` those
    that the calibration samples do not bear out.
    """
    table = _table("Each client (test accuracy in %)", first="client")
    for header in (
        "train\nsamples",
        "λ",
        "90 %\nof λ",
        "a",
        "b",
        "c",
        "feder-\nated",
        "local",
        "person-\nalized",
    ):
        table.add_column(header, justify="right")
    for client in results["clients"]:
        traces, accuracy, personalized = (
            client["traces"],
            client["accuracy"],
            client["personalized"],
        )
        table.add_row(
            str(client["client"]),
            str(client["num_train"]),
            marked_weight(client),
            interval(client),
            *(scientific(traces[key]) for key in ("federated", "local", "cross")),
            *(percent(accuracy[key]) for key in ("federated", "local")),
            percent(personalized["accuracy"]),
        )
    lines = [
        "90 % of λ: interval from resampling; a, b, c: variance traces, federated, local, cross",
        *(f"{mark} {who}: {text}" for mark, who, text in remarks(results)),
    ]
    table.caption = Text("\n".join(lines))
    return table


def marked_weight(client: dict[str, Any]) -> str:
    """Return the λ of a client's personalized adapter with its marks."""
    marks = "*" * bool(client["personalized"]["reason"]) + "!" * bool(
        client["diagnosis"]["warning"]
    )
    return number(client["personalized"]["weight"]) + marks


def interval(client: dict[str, Any]) -> str:
    """Return the interval of a client's λ in few characters, e.g. ``.21–.80``."""
    ends = (number(client["diagnosis"][end]) for end in ("low", "high"))
    return "–".join(end.removeprefix("0") if end.startswith("0.") else end for end in ends)


def remarks(results: Results) -> list[tuple[str, str, str]]:
    """Return each remark on a client's λ: its mark, the clients it is on, and its text.

    ``*``: why an adapter is not the rule's merge; ``!``: where λ and the losses disagree.
    """
    clients = results["clients"]
    named: dict[tuple[str, str], list[str]] = {}
    for client in clients:
        for mark, text in (
            ("*", client["personalized"]["reason"]),
            ("!", client["diagnosis"]["warning"]),
        ):
            if text:
                named.setdefault((mark, text), []).append(str(client["client"]))
    return [
        (
            mark,
            "every client"
            if len(names) == len(clients) > 1
            else f"client{'s' if len(names) > 1 else ''} {', '.join(names)}",
            text,
        )
        for (mark, text), names in named.items()
    ]


def percent(fraction: float | None) -> str:
    """Format a fraction in percent or points, one decimal."""
    return NONE if fraction is None else f"{100 * fraction:.1f}"


def number(value: float | None, decimals: int = 2) -> str:
    """Format a number with a fixed count of decimals."""
    return NONE if value is None else f"{value:.{decimals}f}"


def scientific(value: float | None) -> str:
    """Format a number of any magnitude in few characters, e.g. ``3.2e5``."""
    if value is None:
        return NONE
    if value == 0:
        return "0"
    if 0.1 <= abs(value) < 1000:
        return f"{value:.3g}"
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def byte_unit(most: float) -> tuple[float, str]:
    """Return the unit, in bytes and by name, in which a count of bytes is best read."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if most >= unit:
            return unit, name
    return 1.0, "bytes"


def _summary_row(
    results: Results, name: str, notes: dict[str, str], weights: dict[str, float | None]
) -> SummaryRow:
    summary = results["summary"]
    regret = 0.0 if name == ORACLE else summary["regret"].get(name, {}).get("accuracy")
    return SummaryRow(
        name=name,
        note=notes.get(name, ""),
        accuracy=summary["mean"]["accuracy"].get(name),
        weighted_accuracy=summary["weighted_mean"]["accuracy"].get(name),
        loss=summary["mean"]["loss"].get(name),
        weight=weights.get(name),
        regret=regret,
    )


def _table(title: str, first: str = "adapter") -> Table:
    table = Table(
        title=title,
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        title_justify="left",
        caption_justify="left",
    )
    table.add_column(first, overflow="fold")
    return table


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
