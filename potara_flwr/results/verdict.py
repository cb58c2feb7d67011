"""What the numbers of a run say, in one sentence."""

from __future__ import annotations

from potara_flwr.core.statistics import Difference, difference
from potara_flwr.methods import METHODS
from potara_flwr.results.tables import Results, merges, percent, plural, single_adapters

INITIAL = "initial"


def verdict(results: Results) -> str:
    """Say how the personalized adapters compare with the best adapter that all clients could have
    used instead, and for how many clients.

    That is the federated or the local one, whichever is better on average, or the initial one
    where the method has no other. The noise is two standard errors of the mean over clients of the
    paired difference: that of other clients, not that of another seed.
    """
    clients = results["clients"]
    if not clients:
        return "No client was personalized."
    own = [float(client["personalized"]["accuracy"]) for client in clients]
    name, other = _reference(results, own)
    gains = [one - two for one, two in zip(own, other, strict=True)]
    found = difference(gains)
    assert found is not None
    no_worse = sum(gain >= -1e-9 for gain in gains)
    who = "On average over the clients" if len(clients) > 1 else "On the one client"
    whole = "the merge" if merges(results) else METHODS[results["method"]].title
    return (
        f"{who}, {whole} reaches {percent(sum(own) / len(own))} % and "
        f"{_words(name, merges(results))} {percent(sum(other) / len(other))} %: "
        f"{found.words(100)} points, {_meaning(found)}; no worse for {no_worse} of "
        f"{plural(len(clients), 'client')}."
    )


def _reference(results: Results, own: list[float]) -> tuple[str, list[float]]:
    """Return the name of the adapter to compare with, and its accuracy for each client."""
    clients = results["clients"]
    found = {
        name: [float(client["accuracy"][name]) for client in clients]
        for name in single_adapters(results)
        if all(name in client["accuracy"] for client in clients)
    }
    others = {
        name: scores
        for name, scores in found.items()
        if name != INITIAL and (merges(results) or scores != own)
    }
    best = max(others or {INITIAL}, key=lambda name: sum(found[name]))
    return best, found[best]


def _words(name: str, merged: bool) -> str:
    if name == INITIAL:
        return "the initial adapter, before any training,"
    return f"the better single adapter ({name})" if merged else f"its {name} adapter"


def _meaning(found: Difference) -> str:
    if found.error is None:
        return "whose noise one client does not tell"
    if abs(found.mean) <= found.error:
        return "within the noise"
    return "better beyond the noise" if found.mean > 0 else "worse beyond the noise"
