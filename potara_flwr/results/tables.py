"""The tables of a run: first as plain rows, which the report shares, then for a terminal."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from potara_flwr.core.many import FEW, MANY, QUANTILES, named, quantiles
from potara_flwr.messages.reports import ORACLE

Results = dict[str, Any]
"""The contents of ``results.json``."""

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


TRACES = {"a": "federated", "b": "local", "c": "cross"}
"""Variance trace → the adapter that it is of."""

SINGLE = ("initial", "federated", "local")
"""Adapters that are no merge, in the order of a table."""


def merges(results: Results) -> bool:
    """Say whether the method merges by evidence: traces, rules, λ, an oracle."""
    return bool(results["method"] == "potara")


def compares(results: Results) -> bool:
    """Say whether the merges of all rules, and those along λ, were scored (``merge.compare``)."""
    return any("grid" in client for client in results["clients"])


def single_adapters(results: Results) -> list[str]:
    """Return the single adapters that the clients score, in the order of a table."""
    scored = {name for client in results["clients"] for name in client["accuracy"]}
    return [name for name in SINGLE if name in scored] or list(SINGLE)


def has_weight(results: Results) -> bool:
    """Say whether the personalized adapters have a weight on the federated one."""
    weighted = any("weight" in client["personalized"] for client in results["clients"])
    return merges(results) or weighted


def rule_names(results: Results) -> list[str]:
    """Return the merge rules that the clients report, in their order, without the oracle."""
    names = {name: None for client in results["clients"] for name in client.get("weights", ())}
    return [name for name in names if name != ORACLE]


def summary_rows(results: Results) -> list[SummaryRow]:
    """Return the single adapters, the personalized one, every rule and the oracle: what is there.

    Where rules are compared, the personalized adapter is the chosen one's, and has a row of its own
    only if some client's is not.
    """
    clients = results["clients"]
    own = [client["personalized"].get("weight") for client in clients]
    weights: dict[str, float | None] = {
        "federated": 1.0,
        "local": 0.0,
        "personalized": _mean(own),
    }
    if not compares(results):
        names, notes = [*single_adapters(results), "personalized"], {"personalized": "chosen"}
        return [_summary_row(results, name, notes, weights) for name in names]
    for name in [*rule_names(results), ORACLE]:
        weights[name] = _mean([client["weights"].get(name) for client in clients])
    chosen = results["config"]["merge"]["rule"]
    notes = {chosen: "chosen", ORACLE: "sees test data", "personalized": "saved"}
    names = [*single_adapters(results), *rule_names(results)]
    if any(client["personalized"]["reason"] for client in clients):
        names.append("personalized")
    return [_summary_row(results, name, notes, weights) for name in [*names, ORACLE]]


def summary_table(results: Results) -> Table:
    """Return what every adapter and rule is worth over all clients, as a table for a terminal."""
    table = _table("Test scores over all clients")
    columns: dict[str, Callable[[SummaryRow], str]] = {
        "mean\naccuracy %": lambda row: percent(row.accuracy),
        "example-\nweighted\naccuracy %": lambda row: percent(row.weighted_accuracy),
        "mean\nloss": lambda row: number(row.loss, 3),
    }
    if has_weight(results):
        columns["mean λ"] = lambda row: number(row.weight)
    if compares(results):
        columns["regret\n(points)"] = lambda row: percent(row.regret)
    for header in columns:
        table.add_column(header, justify="right")
    for row in summary_rows(results):
        table.add_row(
            Text(row.label),
            *(show(row) for show in columns.values()),
            style="bold" if row.note == "chosen" else "dim" if row.name == ORACLE else None,
        )
    table.caption = Text("\n".join(line for line in (refusals(results), privacy(results)) if line))
    return table


def refusals(results: Results) -> str:
    """Say how many replies were refused, and of whom, in one line; empty where none was."""
    refused = results["refused"]
    who = {NONE if item["client"] is None else str(item["client"]): None for item in refused}
    plural = "reply was" if len(refused) == 1 else "replies were"
    return f"{len(refused)} {plural} refused, of clients {named(list(who))}" if refused else ""


def privacy(results: Results) -> str:
    """Say how much privacy the run gives, in one line; empty where it was not asked for."""
    if not (spent := results.get("privacy")):
        return ""
    if spent["epsilon"] is None:
        return "clients clipped what they sent; without noise that is no privacy"
    bound = f"ε = {spent['epsilon']:.3g} at δ = {spent['delta']:g}"
    of = (
        f"a client's whole part in the rounds ({spent['releases']} of them, noise {spent['noise']})"
    )
    if spent["noise"] == "seeded":
        return f"no privacy: the noise is seeded; secret noise would give {bound} for {of}"
    return f"{bound} for {of}"


def is_many(results: Results) -> bool:
    """Say whether there are more clients than people look at one by one."""
    return len(results["clients"]) > MANY


@dataclass(frozen=True)
class Distribution:
    """A number of every client, over all of them."""

    name: str
    quantiles: Mapping[str, str]
    """By the names of :data:`~potara_flwr.core.many.QUANTILES`, as it is shown."""


def distributions(results: Results) -> list[Distribution]:
    """Return the numbers of a client that its row has, over all clients: accuracies first."""
    clients = results["clients"]
    numbers: dict[str, tuple[Callable[[float], str], list[float | None]]] = {}
    for name in single_adapters(results):
        numbers[f"{name} (accuracy %)"] = percent, [c["accuracy"].get(name) for c in clients]
    own = [client["personalized"]["accuracy"] for client in clients]
    numbers["personalized (accuracy %)"] = percent, own
    if has_weight(results):
        weights = [client["personalized"].get("weight") for client in clients]
        numbers["λ"] = number, weights
    if merges(results):
        for letter, key in TRACES.items():
            numbers[letter] = scientific, [client["traces"][key] for client in clients]
    for name, key in (
        ("train samples", "num_train"),
        ("test samples", "num_test"),
        ("optimizer steps", "optimizer_steps"),
    ):
        numbers[name] = "{:.0f}".format, [client[key] for client in clients]
    known = {
        name: (form, [value for value in values if value is not None])
        for name, (form, values) in numbers.items()
    }
    return [
        Distribution(name, {at: form(value) for at, value in quantiles(values).items()})
        for name, (form, values) in known.items()
        if values
    ]


def distribution_table(results: Results) -> Table:
    """Return how the numbers of the clients are distributed, as a table for a terminal."""
    table = _table(f"Over {len(results['clients']):,} clients, each number on its own", first="")
    for header in QUANTILES:
        table.add_column(header, justify="right")
    for row in distributions(results):
        table.add_row(Text(row.name), *row.quantiles.values())
    return table


def client_tables(results: Results) -> list[Table]:
    """Return what is shown of the clients in a terminal: each of them, or, where they are many, how
    their numbers are distributed and those that end with the lowest accuracy.
    """
    if not is_many(results):
        return [client_table(results)]
    lowest = sorted(results["clients"], key=lambda client: client["personalized"]["accuracy"])[:FEW]
    table = client_table(results, lowest)
    table.title = f"The {len(lowest)} clients that end lowest (test accuracy in %)"
    return [distribution_table(results), table]


def client_table(results: Results, shown: list[dict[str, Any]] | None = None) -> Table:
    """Return one row per client, as a table for a terminal; ``shown`` are those that have one, by
    default all.

    λ is that of the personalized adapter: ``*`` marks those that are not the rule's, ``!`` those
    that the calibration samples do not bear out.
    """
    table = _table("Each client (test accuracy in %)", first="client")
    columns = client_columns(results)
    for header in columns:
        table.add_column(header, justify="right")
    for client in results["clients"] if shown is None else shown:
        table.add_row(Text(client_name(client)), *(show(client) for show in columns.values()))
    lines = [f"{mark} {who}: {text}" for mark, who, text in remarks(results)]
    if merges(results):
        traces = "a, b, c: variance traces, federated, local, cross"
        lines.insert(0, f"90 % of λ: interval from resampling; {traces}")
    elif has_weight(results):
        lines.insert(0, "λ: mean weight on the federated adapter")
    table.caption = Text("\n".join(lines))
    return table


def client_name(entry: Mapping[str, Any]) -> str:
    """Return a client's name, or its number; ``–`` for a node that is no client."""
    number = entry["client"]
    return str(entry.get("name", NONE if number is None else number))


def client_columns(results: Results) -> dict[str, Callable[[dict[str, Any]], str]]:
    """Return the columns of a client's row: header → what it shows of an entry of ``clients``."""
    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        "train\nsamples": lambda client: str(client["num_train"])
    }
    if merges(results):
        columns |= {"λ": marked_weight, "90 %\nof λ": interval}
        for letter, key in TRACES.items():
            columns[letter] = functools.partial(_trace, key)
    else:
        columns["optimizer\nsteps"] = lambda client: str(client["optimizer_steps"])
        if has_weight(results):
            columns["λ"] = lambda client: number(client["personalized"].get("weight"))
    for name in single_adapters(results):
        if name != "initial":
            columns[name.replace("feder", "feder-\n")] = functools.partial(_accuracy, name)
    columns["person-\nalized"] = lambda client: percent(client["personalized"]["accuracy"])
    return columns


def _trace(key: str, client: dict[str, Any]) -> str:
    return scientific(client["traces"][key])


def _accuracy(name: str, client: dict[str, Any]) -> str:
    return percent(client["accuracy"].get(name))


def marked_weight(client: dict[str, Any]) -> str:
    """Return the λ of a client's personalized adapter with its marks."""
    marks = "*" * bool(client["personalized"]["reason"])
    marks += "!" * bool(client["diagnosis"]["warning"])
    return number(client["personalized"]["weight"]) + marks


def interval(client: dict[str, Any]) -> str:
    """Return the interval of a client's λ in few characters, e.g. ``.21–.80``."""
    ends = (number(client["diagnosis"][end]) for end in ("low", "high"))
    return "–".join(end.removeprefix("0") if end.startswith("0.") else end for end in ends)


def remarks(results: Results) -> list[tuple[str, str, str]]:
    """Return each remark on a client's λ: its mark, the clients it is on, and its text.

    ``*``: why an adapter is not the rule's merge; ``!``: where λ and the losses disagree.
    """
    clients = results["clients"] if merges(results) else []
    found: dict[tuple[str, str], list[str]] = {}
    for client in clients:
        for mark, text in (
            ("*", client["personalized"]["reason"]),
            ("!", client["diagnosis"]["warning"]),
        ):
            if text:
                found.setdefault((mark, text), []).append(client_name(client))
    return [
        (
            mark,
            "every client"
            if len(names) == len(clients) > 1
            else f"{some_of(len(names))} {named(names)}",
            text,
        )
        for (mark, text), names in found.items()
    ]


def some_of(count: int) -> str:
    """Return the word before the names of so many clients; of many it says how many they are."""
    if count > MANY:
        return f"{count:,} clients:"
    return "client" if count == 1 else "clients"


def plural(count: int, noun: str) -> str:
    """Say how many there are, e.g. ``3 rounds``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


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
    regrets = summary.get("regret", {})
    regret = 0.0 if name == ORACLE else regrets.get(name, {}).get("accuracy")
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
