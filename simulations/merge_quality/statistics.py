"""Regret, paired differences and correlations over the measured cases."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from scipy.stats import spearmanr

from potara_flwr.core.statistics import Difference, Spread, difference, spread

ENDS = {"local": 0, "federated": 10}
"""The adapters themselves, by their place on the grid."""
ADAPTERS = ("initial", "tuned")
"""Adapters off the segment, of which the accuracy is measured."""
ALL = 0
"""``data.train-samples`` of a client that uses all it has."""

Cases = Sequence[dict[str, Any]]


def score(case: dict[str, Any], rule: str, metric: str = "accuracy") -> float:
    """Return a rule's or adapter's test score; the oracle's is the best of the grid."""
    if rule in ADAPTERS:
        return float(case[rule])
    if rule in ENDS:
        return float(case["grid"][ENDS[rule]][metric])
    if rule == "oracle":
        best = max(case["grid"], key=lambda point: (point["accuracy"], -point["loss"]))
        return float(best[metric])
    return float(case["rules"][rule][metric])


def oracle_weight(case: dict[str, Any]) -> float:
    """Return the grid point with the best test accuracy; of equals, the lowest loss."""
    grid = case["grid"]
    return max(range(len(grid)), key=lambda k: (grid[k]["accuracy"], -grid[k]["loss"])) / 10


def lead(rule: str, over: str) -> Callable[[dict[str, Any]], float]:
    """Return what a rule gains over another on a case, in points of accuracy."""
    return lambda case: 100 * (score(case, rule) - score(case, over))


def regret(case: dict[str, Any], rule: str) -> float:
    """Return the points of accuracy that a rule loses against the oracle."""
    return 100 * (score(case, "oracle") - score(case, rule))


def regime_of(case: dict[str, Any]) -> tuple[str, str, int, int]:
    """Return what makes a regime: group, local start, samples, rounds."""
    return case["group"], case["start"], case["samples"], case["rounds"]


def by(cases: Cases, key: Callable[[dict[str, Any]], Any]) -> dict[Any, list[dict[str, Any]]]:
    """Group cases, in the order of their keys."""
    groups: dict[Any, list[dict[str, Any]]] = {}
    for case in cases:
        groups.setdefault(key(case), []).append(case)
    return {name: groups[name] for name in sorted(groups)}


def mean(values: Iterable[float]) -> float:
    """Return the mean."""
    return statistics.fmean(values)


def over_seeds(cases: Cases, value: Callable[[dict[str, Any]], float]) -> Spread:
    """Return mean and spread over seeds of each seed's mean."""
    groups = by(cases, lambda case: case["seed"]).values()
    return spread([mean(map(value, group)) for group in groups])


def paired(cases: Cases, gain: Callable[[dict[str, Any]], float]) -> Difference:
    """Return the mean of paired differences and its error, for which the cases of one client at one
    seed, which share its data, count as one.
    """
    clients = by(cases, lambda case: (case["group"], case["seed"], case["client"]))
    found = difference([mean(map(gain, group)) for group in clients.values()])
    assert found is not None  # there are cases
    return replace(found, mean=mean(map(gain, cases)))


def regime_words(regime: tuple[str, str, int, int]) -> list[str]:
    """Return a regime in words."""
    group, start, samples, rounds = regime
    return [group, start, "all" if samples == ALL else str(samples), str(rounds)]


def weight_correlation(cases: Cases, rule: str) -> float:
    """Return the rank correlation over clients of λ with the oracle's, meaned over regimes."""
    found = []
    for group in by(cases, regime_of).values():
        oracle = [oracle_weight(case) for case in group]
        weights = [case["rules"][rule]["weight"] for case in group]
        if len(set(oracle)) > 1 and len(set(weights)) > 1:
            found.append(float(spearmanr(weights, oracle).statistic))
    return mean(found) if found else math.nan


def cost_of(cases: Cases, rule: str) -> float:
    """Return gradient passes and rule over the client's local training; the median case."""
    shares: list[float] = [
        (case["seconds_evidence"] + case["rules"][rule]["seconds"]) / case["seconds_training"]
        for case in cases
    ]
    return statistics.median(shares)
