"""The results folder and ``results.json`` (schema: docs/reference/results.md)."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from potara_flwr.core.errors import SettingsError
from potara_flwr.core.storage import write_whole
from potara_flwr.settings.schema import Settings

RESULTS, CHECKPOINT, STATE = "results.json", "checkpoint.safetensors", "state"
"""In a results folder: all numbers; what a run goes on from; the state of clients whose node has no
folder of its own."""


def results_folder(settings: Settings, run_id: int) -> Path:
    """Return the results folder of a run, the same on the server and on every client, and in every
    attempt to finish it.
    """
    if earlier := settings.run.earlier[1]:
        return Path(earlier).expanduser().absolute()
    if settings.run.results:
        return Path(settings.run.results).expanduser().absolute()
    return Path.home() / "potara-results" / f"run-{run_id}"


@contextmanager
def claimed_folder(settings: Settings, folder: Path) -> Iterator[None]:
    """Create the results folder for as long as a run goes on, or find the one to go on in; a run
    that fails before there is anything to go on from leaves no folder behind.

    Raises
    ------
    SettingsError
        The folder cannot be written, is already used by another run, or there is nothing to go on
        from in it.
    """
    if settings.run.earlier[0]:
        _check_earlier(settings, folder)
        yield
        return
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
        if not (folder / CHECKPOINT).exists():
            shutil.rmtree(folder / STATE, ignore_errors=True)
        for place in new:
            with suppress(OSError):  # it is not empty, or never came to be
                place.rmdir()
        raise


def _check_earlier(settings: Settings, folder: Path) -> None:
    """Check that a folder is one to go on in."""
    name = settings.run.earlier[0]
    finished, begun = (folder / RESULTS).is_file(), (folder / CHECKPOINT).is_file()
    if settings.run.resume and finished:
        raise SettingsError(f"{name}: the run in {folder} is already finished")
    if settings.run.resume and not begun:
        raise SettingsError(
            f"{name}: there is no {CHECKPOINT} in {folder}, so no round was finished there; run "
            "again in a new folder"
        )
    if settings.run.personalize_only and not (finished and begun):
        absent = RESULTS if begun or not finished else CHECKPOINT
        raise SettingsError(
            f"{name}: there is no {absent} in {folder}, so no run was finished there; to finish "
            "one: run.resume"
        )


def summarize(clients: list[dict[str, Any]]) -> dict[str, Any]:
    """Return means over clients, plain and weighted by test samples, optimizer steps, and, where
    there are merge rules, fallbacks and warnings, and each rule's mean regret where they are
    compared.

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
    summary |= {
        "fallbacks": sum(bool(client["personalized"]["fallback"]) for client in clients),
        "warnings": sum(bool(client["diagnosis"]["warning"]) for client in clients),
    }
    if "grid" not in clients[0]:
        return summary
    rules = [rule for rule in clients[0]["weights"] if rule != "oracle"]
    return summary | {
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


TIMES = ("seconds", "training_seconds")
"""What in results is a wall-clock time."""


def digest(results: Mapping[str, Any]) -> str:
    """Return a hash of all results but the wall-clock times: equal runs have equal digests."""

    def timeless(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: timeless(item) for key, item in value.items() if key not in TIMES}
        return [timeless(item) for item in value] if isinstance(value, list) else value

    return hashlib.sha256(json.dumps(timeless(results), sort_keys=True).encode()).hexdigest()


def write_results(folder: Path, results: dict[str, Any]) -> None:
    """Write ``results.json``, whole or not at all, with its digest."""
    text = json.dumps({**results, "digest": digest(results)}, indent=1, allow_nan=False)
    write_whole(folder / RESULTS, (text + "\n").encode())


def read_results(folder: Path) -> dict[str, Any]:
    """Read ``results.json``."""
    results: dict[str, Any] = json.loads((folder / RESULTS).read_text())
    return results
