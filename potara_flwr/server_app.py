"""Flower's way in, server side: gather the clients, run the rounds, have them personalize."""

from __future__ import annotations

import time
from collections.abc import Iterable
from logging import ERROR, INFO, WARNING
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.supercore import log

from potara_flwr.client_app import USER_ERROR
from potara_flwr.communication import Ledger, MeteredGrid
from potara_flwr.config import Settings, from_flat
from potara_flwr.errors import PotaraError, RunError, SettingsError
from potara_flwr.history import RoundRecorder
from potara_flwr.report import write_report
from potara_flwr.results import (
    claim_folder,
    client_entry,
    results_folder,
    summarize,
    write_results,
)
from potara_flwr.saving import save_federated
from potara_flwr.strategies import STRATEGIES
from potara_flwr.workbench import code_version, workbench

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
    """Run the rounds and the personalization; return the results folder.

    Raises
    ------
    PotaraError
        A setting does not fit, or too few clients could take part.
    """
    folder = results_folder(settings, run_id)
    model = workbench(settings).model
    ledger = Ledger()
    metered = MeteredGrid(grid, ledger)
    sizes = gather_clients(metered, settings)
    claim_folder(folder)

    # 1. Federated rounds: the federated adapter.
    strategy = STRATEGIES[settings.federation.strategy](
        metered.clients,
        seed=settings.seed,
        fraction_train=settings.federation.fraction_train,
        fraction_evaluate=settings.federation.fraction_evaluate,
        min_reply_fraction=settings.federation.min_reply_fraction,
        ledger=ledger,
    )
    recorder = RoundRecorder(strategy, ledger, settings)
    initial = ArrayRecord(model.initial)
    outcome = strategy.start(
        grid=metered,
        initial_arrays=initial,
        num_rounds=settings.federation.rounds,
        timeout=settings.federation.timeout,
        evaluate_fn=recorder,
    )
    federated = outcome.arrays if settings.federation.rounds else initial

    # 2. Local training, traces, weight and merge: on the clients, which send numbers only.
    clients = personalize_clients(metered, federated, settings, sizes, recorder)

    # 3. Results.
    results = {
        "config": settings.computed(),
        "rounds": recorder.rounds,
        **ledger.to_json(),
        "clients": clients,
        "summary": summarize(clients),
    }
    accuracy = results["summary"]["mean"]["accuracy"]["federated"]
    adapter = federated.to_torch_state_dict()
    save_federated(folder / "federated", dict(adapter), model, settings, accuracy)
    write_report(results, folder)
    write_results(folder, results)
    log(INFO, "results: %s", folder)
    return folder


def gather_clients(grid: MeteredGrid, settings: Settings) -> dict[int, dict[str, int]]:
    """Wait for the SuperNodes, ask each which client it is, and fill in ``grid.clients``.

    Goes on once every client is there, once Flower says there will be no more nodes, or after
    ``federation.connect-timeout`` seconds; who is missing then is logged and stands in the results.

    Returns
    -------
    dict
        Client → its ``client``, ``num_train``, ``num_calibration`` and ``num_test``.

    Raises
    ------
    SettingsError
        A setting does not fit a client's data, or a client runs other code.
    RunError
        No client has connected.
    """
    sizes: dict[int, dict[str, int]] = {}
    known: set[int] = set()
    announced = settings.data.num_clients
    deadline = time.monotonic() + settings.federation.connect_timeout
    while True:
        new = sorted(set(grid.get_node_ids()) - known)
        known.update(new)
        for reply in _describe(grid, new, settings):
            node = reply.metadata.src_node_id
            if reply.has_error():
                if reply.error.code == USER_ERROR:
                    raise SettingsError(reply.error.reason or "a client refused the settings")
                log(WARNING, "node %d does not take part: %s", node, reply.error.reason)
                continue
            numbers = {
                name.replace("-", "_"): int(value)  # type: ignore[arg-type]
                for name, value in reply.content.metric_records["metrics"].items()
            }
            announced = numbers.pop("num_partitions") or announced
            client = numbers["client"]
            if client >= settings.data.num_clients or client in sizes:
                grid.ledger.refuse(client, 0, "describe", "there is no such client, or it is taken")
                continue
            grid.clients[node] = client
            sizes[client] = numbers
        enough = min(announced, settings.data.num_clients)
        if len(sizes) >= enough or len(known) >= announced or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    for client in sorted(set(range(settings.data.num_clients)) - set(sizes)):
        grid.ledger.miss(client, 0, "describe", "no SuperNode is this client")
    if not sizes:
        raise RunError(f"none of the {settings.data.num_clients} clients has connected")
    if len(sizes) < settings.data.num_clients:
        log(
            WARNING,
            "%d of %d clients take part; for all of them run with "
            '--federation-config "num-supernodes=%d client-resources-num-cpus=1"',
            len(sizes),
            settings.data.num_clients,
            settings.data.num_clients,
        )
    return sizes


def personalize_clients(
    grid: MeteredGrid,
    federated: ArrayRecord,
    settings: Settings,
    sizes: dict[int, dict[str, int]],
    recorder: RoundRecorder,
) -> list[dict[str, Any]]:
    """Send every client the federated adapter; return their results, sorted by client.

    Raises
    ------
    RunError
        No client could be personalized.
    """
    grid.on_reply = recorder.watch_personalization(len(grid.clients))
    content = RecordDict({"arrays": federated})
    messages = [Message(content, node, "query.personalize") for node in grid.clients]
    clients = []
    for reply in grid.send_and_receive(messages, timeout=settings.federation.timeout):
        client = grid.clients[reply.metadata.src_node_id]
        if reply.has_error():
            reason = reply.error.reason or f"error {reply.error.code}"
            grid.ledger.refuse(client, None, "personalize", reason)
            continue
        words = reply.content.config_records["config"]
        clients.append(
            client_entry(
                sizes[client],
                dict(reply.content.metric_records["metrics"].items()),
                str(words["rule"]),
                str(words["reason"]),
            )
        )
    if not clients:
        reasons = grid.ledger.absent(None, "personalize")
        raise RunError(f"no client could be personalized ({reasons})")
    return clients


def _describe(grid: MeteredGrid, nodes: list[int], settings: Settings) -> Iterable[Message]:
    """Ask nodes which client they are."""
    content = RecordDict({"config": ConfigRecord({"code-version": code_version()})})
    messages = [Message(content, node, "query.describe", group_id="0") for node in nodes]
    return grid.send_and_receive(messages, timeout=settings.federation.timeout) if nodes else []
