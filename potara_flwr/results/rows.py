"""The account of rows: how many a run found, what it uses them for, what it leaves out and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from potara_flwr.core.many import quantiles
from potara_flwr.data.account import USED

ROWS = "rows: "
"""How a line of a run's log begins that says what has become of rows."""
REASONS = {
    "beyond_train_samples": "beyond data.train-samples",
    "beyond_test_samples": "beyond data.test-samples",
    "unused_splits": "in splits that are not used",
    "no_client": "given to no client by data.partition",
    "absent_clients": "held by clients that do not take part",
}
"""Why rows are left out, in words."""


def total_rows(clients: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what has become of the rows of all clients, and of those that none of them holds.

    Parameters
    ----------
    clients : iterable of mapping
        Entries of ``results.json`` or the beginnings of such; those without ``rows`` do not count.

    Returns
    -------
    dict
        ``found`` = ``train`` + ``calibration`` + ``test`` + all of ``left_out`` (reason → rows);
        and how many of those that are used are ``cut``, where some are.
    """
    entries = [client["rows"] for client in clients if "rows" in client]
    sources = {entry["source"]["number"]: entry["source"] for entry in entries if "source" in entry}
    used = Counter(dict.fromkeys(USED, 0))
    left_out: Counter[str] = Counter()
    for entry in entries:
        used.update({name: entry[name] for name in USED})
        left_out.update(entry["left_out"])
    for number, source in sources.items():
        left_out.update(source["left_out"])
        held = sum(e["found"] for e in entries if e.get("source", {}).get("number") == number)
        rest = source["found"] - sum(source["left_out"].values()) - held
        left_out["absent_clients"] += max(0, rest)  # clients may hold the same rows
    left_out = +left_out
    total = {"found": used.total() + left_out.total(), **used, "left_out": dict(left_out)}
    cut = sum(entry.get("cut", 0) for entry in entries)
    return total | {"cut": cut} if cut else total


def spread_in_words(clients: Sequence[Mapping[str, Any]]) -> str:
    """Return how many rows each of many clients uses, in words: the least, the middle and the most.

    ``clients`` are entries of ``results.json`` or the beginnings of such.
    """
    words = []
    for part, told in (("train", "training"), ("calibration", "calibration"), ("test", "testing")):
        sizes = quantiles([client[f"num_{part}"] for client in clients])
        least, middle, most = (f"{sizes[name]:g}" for name in ("lowest", "median", "highest"))
        words.append(f"{least} to {most} for {told} (median {middle})")
    return f"each of {len(clients):,} clients: {', '.join(words)}"


def in_words(rows: Mapping[str, Any]) -> str:
    """Return an account in words: what was found, what is used, what is left out and why."""
    used = f"{rows['train']} for training"
    if rows["calibration"]:
        used += f", {rows['calibration']} for calibration"
    words = f"{rows['found']} found, {used}, {rows['test']} for testing"
    reasons = ", ".join(f"{n} {REASONS[reason]}" for reason, n in rows["left_out"].items())
    words += f"; left out: {reasons}" if reasons else ", none left out"
    if cut := rows.get("cut"):
        words += f"; the texts of {cut} are cut (data.max-tokens)"
    return words
