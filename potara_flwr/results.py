"""The results folder and ``results.json`` (schema: docs/run-results.md)."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from potara_flwr.config import Settings
from potara_flwr.errors import SettingsError


def results_folder(settings: Settings, run_id: int) -> Path:
    """Return the results folder of a run, the same on the server and on every client."""
    if settings.run.results:
        return Path(settings.run.results).expanduser().absolute()
    return Path.home() / "potara-results" / f"run-{run_id}"


@contextmanager
def claimed_folder(folder: Path) -> Iterator[None]:
    """Create the results folder for as long as a run goes on; a run that fails before it has
    written anything leaves no empty folder behind.

    Raises
    ------
    SettingsError
        The folder cannot be written, or is already used by another run.
    """
    new = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
            used = any(folder.iterdir())
        except OSError as error:
            raise SettingsError(
                f"run.results: the folder {folder} cannot be written ({error.strerror}); "
                "name another"
            ) from None
        if used:
            raise SettingsError(
                f"run.results: the folder {folder} is already used by another run; name a new one"
            )
        yield
    except BaseException:
        for place in new:
            with suppress(OSError):  # it is not empty, or never came to be
                place.rmdir()
        raise


def summarize(clients: list[dict[str, Any]]) -> dict[str, Any]:
    """Return means over clients, plain and weighted by test samples, optimizer steps, and, where
    there are merge rules, fallbacks, warnings and each rule's mean regret.

    Regret is what the oracle's score is better by: accuracy as a fraction, loss in its unit.
    """
    plain = [1.0] * len(clients)
    weighted = [float(client["num_test"]) for client in clients]
    mean = _means(clients, plain)
    steps = sum(client["optimizer_steps"] for client in clients)
    summary: dict[str, Any] = {
        "num_clients": len(clients),
        "optimizer_steps": {"mean": steps / len(clients), "total": steps},
        "mean": mean,
        "weighted_mean": _means(clients, weighted),
    }
    if "weights" not in clients[0]:
        return summary
    rules = [rule for rule in clients[0]["weights"] if rule != "oracle"]
    return summary | {
        "fallbacks": sum(bool(client["personalized"]["fallback"]) for client in clients),
        "warnings": sum(bool(client["diagnosis"]["warning"]) for client in clients),
        "regret": {
            name: {
                "accuracy": mean["accuracy"]["oracle"] - mean["accuracy"][name],
                "loss": mean["loss"][name] - mean["loss"]["oracle"],
            }
            for name in ["personalized", *rules]
        },
    }


def _means(clients: list[dict[str, Any]], weights: list[float]) -> dict[str, dict[str, float]]:
    return {
        metric: {
            name: sum(
                w * _scores(client, metric)[name]
                for w, client in zip(weights, clients, strict=True)
            )
            / sum(weights)
            for name in _scores(clients[0], metric)
        }
        for metric in ("accuracy", "loss")
    }


def _scores(client: dict[str, Any], metric: str) -> dict[str, float]:
    return {**client[metric], "personalized": client["personalized"][metric]}


def digest(results: Mapping[str, Any]) -> str:
    """Return a hash of all results but the wall-clock times: equal runs have equal digests."""

    def timeless(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: timeless(item) for key, item in value.items() if key != "seconds"}
        return [timeless(item) for item in value] if isinstance(value, list) else value

    return hashlib.sha256(json.dumps(timeless(results), sort_keys=True).encode()).hexdigest()


def write_results(folder: Path, results: dict[str, Any]) -> None:
    """Write ``results.json``, whole or not at all, with its digest."""
    text = json.dumps({**results, "digest": digest(results)}, indent=1, allow_nan=False)
    temporary = folder / "results.json.tmp"
    temporary.write_text(text + "\n")
    os.replace(temporary, folder / "results.json")


def read_results(folder: Path) -> dict[str, Any]:
    """Read ``results.json``."""
    results: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return results
