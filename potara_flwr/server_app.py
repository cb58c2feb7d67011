"""Flower's way in, server side: gather the clients, run the rounds, have them personalize."""

from __future__ import annotations

from collections.abc import Mapping
from logging import ERROR, INFO, WARNING
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.supercore import log

from potara_flwr.core.errors import PotaraError
from potara_flwr.core.storage import writing
from potara_flwr.results.folder import (
    claimed_folder,
    read_results,
    results_folder,
    write_results,
)
from potara_flwr.results.report import remove_report, write_report
from potara_flwr.results.tracking import tracking
from potara_flwr.run_config import from_flat
from potara_flwr.server.callbacks import LogProgress, SaveCheckpoints, TrackRun
from potara_flwr.server.checkpoint import load_checkpoint
from potara_flwr.server.run import FederatedRun
from potara_flwr.settings.schema import Settings

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the algorithm; an error ends the run with one line and, for Flower, an exception."""
    try:
        run(grid, from_flat(context.run_config), context.run_id)
    except PotaraError as error:
        log(ERROR, "error: %s", error)
        raise


def run(grid: Grid, settings: Settings, run_id: int) -> Path:
    """Run the rounds and the personalization, or what an earlier attempt has left to do; return the
    results folder.

    Raises
    ------
    PotaraError
        A setting does not fit, a file cannot be written, or too few clients could take part.
    """
    folder = results_folder(settings, run_id)
    with claimed_folder(settings, folder):
        if settings.run.personalize_only:
            complete(grid, settings, folder)
        else:
            learn(grid, settings, folder, f"{run_id:020d}")
    log(INFO, "results: %s", folder)
    return folder


def learn(grid: Grid, settings: Settings, folder: Path, run_key: str) -> None:
    """Take the steps of the algorithm, or those that are left of a run that was interrupted."""
    with tracking(settings, folder) as tracker:
        earlier = load_checkpoint(folder, settings) if settings.run.resume else None
        callbacks = [LogProgress(), TrackRun(tracker), SaveCheckpoints()]
        federated = FederatedRun(grid, settings, folder, run_key, callbacks)
        if earlier:
            done = earlier.progress
            federated.go_on(earlier, done.ledger, done.seconds, done.interruptions + 1)
            log(INFO, "going on after round %d of %d", done.round, federated.total)
        federated.federate()
        clients = federated.personalize()
        save_results(folder, federated.finish(clients), settings)


def complete(grid: Grid, settings: Settings, folder: Path) -> None:
    """Have the clients personalize that are missing in a finished run, and complete its results."""
    earlier, results = load_checkpoint(folder, settings), read_results(folder)
    done = earlier.progress
    there = {entry["client"] for entry in results["clients"]}
    missing = set(range(settings.data.num_clients)) - there
    if not missing:
        log(WARNING, "%s: nothing to do, all clients are personalized in %s", *settings.run.earlier)
        return
    federated = FederatedRun(grid, settings, folder, done.run_key, [LogProgress()], missing)
    before = without_answers(results, set(federated.asked.values()))
    federated.go_on(earlier, before, results["seconds"], done.interruptions)
    clients = [*results["clients"], *federated.personalize()]
    clients.sort(key=lambda entry: int(entry["client"]))
    save_results(folder, results | federated.finish(clients), settings)


def without_answers(results: Mapping[str, Any], asked: set[int]) -> dict[str, Any]:
    """Return results as if ``asked`` clients had not been asked to personalize yet: they are now,
    and whether they answer this time decides who is missing.
    """
    return dict(results) | {
        name: [
            item
            for item in results[name]
            if item["kind"] != "personalize" or item["client"] not in asked
        ]
        for name in ("refused", "missing")
    }


def save_results(folder: Path, results: dict[str, Any], settings: Settings) -> None:
    """Write the report, where it is wanted, and, last of all, ``results.json``: a folder that has
    it is finished. A report of fewer clients does not stay beside the results of all.
    """
    with writing(folder):
        if settings.run.report:
            write_report(results, folder)
        else:
            remove_report(folder)
    write_results(folder, results)
