"""The results folder and ``results.json`` (schema: docs/results.md)."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flwr.app.typing import MetricRecordValues

from potara_flwr.config import Settings
from potara_flwr.errors import SettingsError
from potara_flwr.personalization import Personalization


def results_folder(settings: Settings, run_id: int) -> Path:
    """Return the results folder of a run, the same on the server and on every client."""
    if settings.run.results:
        return Path(settings.run.results).expanduser().absolute()
    return Path.home() / "potara-results" / f"run-{run_id}"


def claim_folder(folder: Path) -> None:
    """Create the results folder, or raise SettingsError where it cannot be used."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        used = any(folder.iterdir())
    except OSError as error:
        raise SettingsError(
            f"run.results: the folder {folder} cannot be written ({error.strerror}); name another"
        ) from None
    if used:
        raise SettingsError(
            f"run.results: the folder {folder} is already used by another run; name a new one"
        )


def personalization_metrics(outcome: Personalization) -> dict[str, MetricRecordValues]:
    """Return the numbers of a personalization under flat names, as a client sends them."""
    nested: dict[str, Mapping[str, MetricRecordValues]] = {
        "traces": outcome.traces,
        "bound": outcome.bound,
        "weights": outcome.weights,
        "accuracy": {name: score.accuracy for name, score in outcome.scores.items()},
        "loss": {name: score.loss for name, score in outcome.scores.items()},
        "grid": {
            "weight": [weight for weight, _ in outcome.grid],
            "accuracy": [score.accuracy for _, score in outcome.grid],
            "loss": [score.loss for _, score in outcome.grid],
        },
        "seconds": {
            "local_training": outcome.seconds_local_training,
            "weight": outcome.seconds_weight,
        },
    }
    flat = {
        f"{group}.{name}": value for group, pairs in nested.items() for name, value in pairs.items()
    }
    flat["weight"] = outcome.weight
    if outcome.svd_error is not None:
        flat["svd-error"] = outcome.svd_error
    return flat


def client_entry(
    sizes: Mapping[str, int], metrics: Mapping[str, Any], rule: str, reason: str
) -> dict[str, Any]:
    """Return a client's part of ``results.json`` from what it sent."""
    groups: dict[str, dict[str, Any]] = {}
    for name, value in metrics.items():
        group, _, key = name.partition(".")
        if key:
            groups.setdefault(group, {})[key] = value
    grid = groups["grid"]
    accuracy = {name: value for name, value in groups["accuracy"].items() if name != "personalized"}
    loss = {name: value for name, value in groups["loss"].items() if name != "personalized"}
    return {
        **sizes,
        "traces": groups["traces"],
        "bound": groups["bound"],
        "weights": groups["weights"],
        "personalized": {
            "rule": rule,
            "weight": metrics["weight"],
            "accuracy": groups["accuracy"]["personalized"],
            "loss": groups["loss"]["personalized"],
            "reason": reason,
        },
        "accuracy": accuracy,
        "loss": loss,
        "grid": [
            {"weight": weight, "accuracy": point, "loss": value}
            for weight, point, value in zip(
                grid["weight"], grid["accuracy"], grid["loss"], strict=True
            )
        ],
        "svd_error": metrics.get("svd-error"),
        "seconds": groups["seconds"],
    }


def summarize(clients: list[dict[str, Any]]) -> dict[str, Any]:
    """Return means over clients, plain and weighted by test samples, and each rule's mean regret.

    Regret is what the oracle's score is better by: accuracy as a fraction, loss in its unit.
    """
    plain = [1.0] * len(clients)
    weighted = [float(client["num_test"]) for client in clients]
    mean = _means(clients, plain)
    rules = [rule for rule in clients[0]["weights"] if rule != "oracle"]
    return {
        "num_clients": len(clients),
        "mean": mean,
        "weighted_mean": _means(clients, weighted),
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
