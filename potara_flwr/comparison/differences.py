"""Means and spreads over seeds, and paired differences to a reference."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from potara_flwr.comparison.runs import ComparisonError, Group, show
from potara_flwr.core.errors import nearest
from potara_flwr.core.statistics import Difference, Spread, difference, spread


@dataclass(frozen=True)
class Row:
    """One group against its reference. Accuracies and losses are those of the personalized
    adapters, accuracies as fractions; what the runs do not tell is None.
    """

    group: Group
    reference: Group | None
    accuracy: Spread
    loss: Spread
    num_bytes: Spread
    """EncodedAdapter up and down by all clients together."""
    steps: Spread | None
    """Optimizer steps of a client."""
    seconds: Spread | None
    """Of a run, all clients together."""
    seconds_weight: Spread | None
    """Of finding a weight and merging, on a client."""
    over_seeds: Difference | None
    """Accuracy above the reference's: a pair is a seed, with its mean over clients."""
    over_clients: Difference | None
    """The same: a pair is a client at a seed."""

    @property
    def is_reference(self) -> bool:
        """Whether the group is its own reference."""
        return self.reference is self.group


def compare(groups: Sequence[Group], reference: Sequence[str] = ()) -> list[Row]:
    """Return a row for each group.

    Parameters
    ----------
    groups : Sequence[Group]
        In the order of the rows.
    reference : Sequence[str], optional
        ``name=value`` words: a group's reference is the one that has these values and is its like
        in everything else. By default the first group is the reference of all.

    Raises
    ------
    ComparisonError
        There is no such setting among those that differ, or no group has that value.
    """
    values = _parse_reference(groups, reference)
    return [_row(group, _reference_of(group, groups, values)) for group in groups]


def client_differences(group: Group, reference: Group) -> dict[int, dict[int, float]]:
    """Return seed → client → accuracy above the reference's, where both have them."""
    return {
        seed: {
            client: accuracy - theirs[client]
            for client, accuracy in ours.items()
            if client in theirs
        }
        for seed in group.runs
        if seed in reference.runs
        for ours, theirs in [(_accuracies(group.runs[seed]), _accuracies(reference.runs[seed]))]
    }


def remarks(rows: Sequence[Row]) -> list[str]:
    """Say what makes a comparison weaker than it looks: seeds, clients and references that lack."""
    said = []
    seeds = sorted({seed for row in rows for seed in row.group.runs})
    clients = {
        client for row in rows for run in row.group.runs.values() for client in _accuracies(run)
    }
    for row in rows:
        if missing := [str(seed) for seed in seeds if seed not in row.group.runs]:
            said.append(f"{row.group.label}: no run of seed {', '.join(missing)}")
        for seed, run in row.group.runs.items():
            if lacking := sorted(clients - set(_accuracies(run))):
                names = ", ".join(map(str, lacking))
                said.append(f"{row.group.label}, seed {seed}: no result of client {names}")
        if row.reference is None:
            said.append(f"{row.group.label}: no run of the reference is its like")
        elif row.over_seeds is None and not row.is_reference:
            said.append(f"{row.group.label}: no seed is also the reference's")
    if len(seeds) == 1:
        said.append("one seed: there is no spread, and clients of one run are not independent")
    return said


def _row(group: Group, reference: Group | None) -> Row:
    runs = list(group.runs.values())
    means = [run["summary"]["mean"] for run in runs]
    over_seeds = over_clients = None
    if reference is not None and reference is not group:
        pairs = client_differences(group, reference)
        over_seeds = difference([statistics.fmean(c.values()) for c in pairs.values() if c])
        over_clients = difference([gain for clients in pairs.values() for gain in clients.values()])
    return Row(
        group=group,
        reference=reference,
        accuracy=spread([mean["accuracy"]["personalized"] for mean in means]),
        loss=spread([mean["loss"]["personalized"] for mean in means]),
        num_bytes=spread([_bytes(run) for run in runs]),
        steps=_spread_of([run["summary"].get("optimizer_steps", {}).get("mean") for run in runs]),
        seconds=_spread_of([sum(run["seconds"].values()) if "seconds" in run else None
                            for run in runs]),
        seconds_weight=_spread_of([_seconds_weight(run) for run in runs]),
        over_seeds=over_seeds,
        over_clients=over_clients,
    )  # fmt: skip


def _parse_reference(groups: Sequence[Group], reference: Sequence[str]) -> dict[str, str] | None:
    """Return name → value of a reference, None where none is named."""
    if not reference:
        return None
    values = {}
    names = list(groups[0].settings)
    for word in reference:
        name, sign, text = word.partition("=")
        if not sign or name not in names:
            where = f"the runs differ in {', '.join(names)}" if names else "the runs differ in none"
            raise ComparisonError(f"--reference {word!r} is no name=value of the runs; {where}")
        known = dict.fromkeys(show(group.settings[name]) for group in groups)
        if text not in known:
            hint = nearest(text, known, "they have")
            raise ComparisonError(f"--reference {word}: no run has this value{hint}")
        values[name] = text
    return values


def _reference_of(
    group: Group, groups: Sequence[Group], values: dict[str, str] | None
) -> Group | None:
    if values is None:
        return groups[0]
    wanted = {name: show(value) for name, value in group.settings.items()} | values
    for other in groups:
        if {name: show(value) for name, value in other.settings.items()} == wanted:
            return other
    return None


def _accuracies(run: dict[str, Any]) -> dict[int, float]:
    """Return client → accuracy of its personalized adapter."""
    return {int(row["client"]): float(row["personalized"]["accuracy"]) for row in run["clients"]}


def _bytes(run: dict[str, Any]) -> float:
    return float(run["communication"]["bytes_up"] + run["communication"]["bytes_down"])


def _seconds_weight(run: dict[str, Any]) -> float | None:
    seconds = [client.get("seconds", {}).get("weight") for client in run["clients"]]
    return statistics.fmean(seconds) if seconds and None not in seconds else None


def _spread_of(values: Sequence[float | None]) -> Spread | None:
    known = [float(value) for value in values if value is not None]
    return spread(known) if len(known) == len(values) else None
