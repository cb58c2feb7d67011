"""Flower's way in, server side: gather the clients, run the rounds, have them personalize."""

from __future__ import annotations

from collections.abc import Mapping
from logging import ERROR, INFO, WARNING
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.supercore import log

from potara_flwr.core.errors import PotaraError, ReplyError, RunError
from potara_flwr.core.stopwatch import Stopwatch
from potara_flwr.core.storage import writing
from potara_flwr.core.version import code_version
from potara_flwr.messages.grid import MeteredGrid
from potara_flwr.messages.ledger import Ledger
from potara_flwr.messages.reports import Description, Report, unpack
from potara_flwr.methods import METHODS
from potara_flwr.models.adapter import kind_of
from potara_flwr.results.folder import (
    claimed_folder,
    read_results,
    results_folder,
    summarize,
    write_results,
)
from potara_flwr.results.report import write_report
from potara_flwr.results.saving import save_federated
from potara_flwr.results.tracking import Tracker, final_metrics, tracking
from potara_flwr.run_config import from_flat
from potara_flwr.server.checkpoint import Progressed, load_checkpoint, save_checkpoint
from potara_flwr.server.gathering import gather_clients
from potara_flwr.server.history import RoundRecorder
from potara_flwr.server.rounds import run_rounds
from potara_flwr.server.strategy import privacy_entry, strategy_of, with_noise
from potara_flwr.settings.schema import Settings
from potara_flwr.strategies.lora_averaging import EncodedAdapter, record_of
from potara_flwr.tasks.workbench import workbench

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
        metered = MeteredGrid(grid, Ledger())
        if settings.run.personalize_only:
            complete(metered, settings, folder)
        else:
            with tracking(settings, folder) as tracker:
                results = learn(metered, settings, folder, tracker, f"{run_id:020d}")
                tracker.summarize(final_metrics(results))
                save_results(folder, results, settings)
    log(INFO, "results: %s", folder)
    return folder


def learn(
    grid: MeteredGrid, settings: Settings, folder: Path, tracker: Tracker, run_key: str
) -> dict[str, Any]:
    """Gather the clients and take the steps of the algorithm; save a checkpoint after every round
    and the federated adapter in ``folder``, and return what goes into ``results.json``.

    ``run_key`` is that of a new run; one that goes on has that of the first attempt.
    """
    clock = Stopwatch()
    method = METHODS[settings.method]
    earlier = load_checkpoint(folder, settings) if settings.run.resume else None
    descriptions = gather_clients(grid, settings)
    clock.lap("gathering")

    # 1. Federated rounds: of the tensors that the method shares.
    strategy = strategy_of(grid.ledger, settings, descriptions)
    recorder = RoundRecorder(strategy, grid.ledger, settings, tracker)
    arrays = initial_arrays(settings)
    done, total, interruptions = 0, method.rounds(settings), 0
    if earlier:
        interruptions = earlier.progress.interruptions + 1
        arrays = earlier.restore(strategy)
        run_key, done = earlier.progress.run_key, earlier.progress.round
        recorder.rounds = earlier.progress.rounds
        grid.ledger.go_on(earlier.progress.ledger)
        clock.add(earlier.progress.seconds)
        log(INFO, "going on after round %d of %d", done, total)
    tracker.start(run_key)

    def save(server_round: int, arrays: ArrayRecord) -> None:
        clock.lap("rounds")
        progress = Progressed(
            run_key, server_round, settings.computed(), code_version(), recorder.rounds,
            grid.ledger.to_json(), clock.seconds, interruptions,
        )  # fmt: skip
        save_checkpoint(folder, progress, strategy, arrays)

    def after_round(server_round: int, arrays: ArrayRecord) -> None:
        recorder(server_round, arrays)
        save(server_round, arrays)

    if not total or earlier:
        save(done, arrays)
    arrays = run_rounds(
        with_noise(strategy, settings), grid, arrays, done=done, total=total,
        timeout=settings.federation.timeout, run_key=run_key, after_round=after_round,
    )  # fmt: skip

    # 2. The method's end, for Potara local training, traces, weight and merge: on the clients,
    # which send numbers only.
    sent = {node: strategy.sent_to(client, arrays) for node, client in grid.clients.items()}
    clients = personalize_clients(grid, sent, settings, descriptions, recorder, run_key)
    recorder.check_steps(clients)
    clock.lap("personalization")

    # 3. Results.
    summary = summarize(clients)
    return {
        "method": settings.method,
        "config": settings.computed(),
        "rounds": recorder.rounds,
        **grid.ledger.to_json(),
        **privacy_entry(settings, recorder.rounds, interruptions),
        "clients": clients,
        "federated_sha256": save_shared(folder, sent, settings, summary),
        "summary": summary,
        "seconds": clock.seconds,
    }


def complete(grid: MeteredGrid, settings: Settings, folder: Path) -> None:
    """Have the clients personalize that are missing in a finished run, and complete its results.

    Raises
    ------
    PotaraError
        A setting differs from the run's, a file cannot be written, or none of them can be
        personalized.
    """
    earlier, results = load_checkpoint(folder, settings), read_results(folder)
    there = {entry["client"] for entry in results["clients"]}
    missing = sorted(set(range(settings.data.num_clients)) - there)
    if not missing:
        log(WARNING, "%s: nothing to do, all clients are personalized in %s", *settings.run.earlier)
        return
    clock = Stopwatch()
    descriptions = gather_clients(grid, settings, missing)
    clock.lap("gathering")
    strategy = strategy_of(grid.ledger, settings, descriptions)
    recorder = RoundRecorder(strategy, grid.ledger, settings, Tracker(settings, folder))
    arrays = earlier.restore(strategy)
    asked = {node: client for node, client in grid.clients.items() if client in missing}
    sent = {node: strategy.sent_to(client, arrays) for node, client in asked.items()}
    recorder.rounds = earlier.progress.rounds
    grid.ledger.go_on(without_answers(results, set(asked.values())), set(missing))
    clients = personalize_clients(
        grid, sent, settings, descriptions, recorder, earlier.progress.run_key
    )
    recorder.check_steps(clients)
    clock.lap("personalization")
    clock.add(results["seconds"])
    results["clients"] = sorted(
        [*results["clients"], *clients], key=lambda entry: int(entry["client"])
    )
    results |= grid.ledger.to_json()
    results["summary"] = summary = summarize(results["clients"])
    results["federated_sha256"] = save_shared(folder, sent, settings, summary)
    results["seconds"] = clock.seconds
    save_results(folder, results, settings)


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


def initial_arrays(settings: Settings) -> ArrayRecord:
    """Return the shared tensors of the initial adapter."""
    method, initial = METHODS[settings.method], workbench(settings).model.initial
    return record_of(
        {name: at.numpy() for name, at in initial.items() if method.sends(name, settings)}
    )


def save_shared(
    folder: Path, sent: Mapping[int, EncodedAdapter], settings: Settings, summary: Mapping[str, Any]
) -> str | None:
    """Save the federated adapter as the clients were sent it, where the method has one; return its
    SHA-256.
    """
    if "federated" not in METHODS[settings.method].adapters:
        return None
    model = workbench(settings).model
    values = next(iter(sent.values())).values
    federated = model.initial | {name: torch.from_numpy(a) for name, a in values.items()}
    if settings.task.head == "local":
        federated = {name: t for name, t in federated.items() if kind_of(name) != "head"}
    accuracy = summary["mean"]["accuracy"]["federated"]
    return save_federated(folder / "federated", federated, model, settings, accuracy)


def save_results(folder: Path, results: dict[str, Any], settings: Settings) -> None:
    """Write the report, where it is wanted, and, last of all, ``results.json``: a folder that has
    it is finished. A report of fewer clients does not stay beside the results of all.
    """
    with writing(folder):
        if settings.run.report:
            write_report(results, folder)
        else:
            (folder / "report.html").unlink(missing_ok=True)
    write_results(folder, results)


def personalize_clients(
    grid: MeteredGrid,
    sent: Mapping[int, EncodedAdapter],
    settings: Settings,
    descriptions: dict[int, Description],
    recorder: RoundRecorder,
    run_key: str,
) -> list[dict[str, Any]]:
    """Send nodes their adapters for the last time; return the clients' results, sorted.

    Raises
    ------
    RunError
        No client could be personalized.
    """
    grid.on_reply = recorder.watch_personalization(len(sent))
    config = ConfigRecord({"run-key": run_key, "server-round": recorder.total})
    contents = {
        id(item): RecordDict({"arrays": item.record, "config": config}) for item in sent.values()
    }
    messages = [
        Message(contents[id(item)], node, "query.personalize") for node, item in sent.items()
    ]
    adapters = set(METHODS[settings.method].adapters)
    clients = []
    for reply in grid.send_and_receive(messages, timeout=settings.federation.timeout):
        client = grid.clients[reply.metadata.src_node_id]
        if reply.has_error():
            reason = reply.error.reason or f"error {reply.error.code}"
            grid.ledger.refuse(client, None, "personalize", reason)
            continue
        try:
            report = unpack(reply.content, Report, recorder.total)
            report.check_adapters(adapters)
        except ReplyError as error:
            grid.ledger.refuse(client, None, "personalize", str(error))
            continue
        clients.append(descriptions[client].to_json(settings.federation.names) | report.to_json())
    if not clients:
        reasons = grid.ledger.absent(None, "personalize")
        raise RunError(f"no client could be personalized ({reasons})")
    return clients
