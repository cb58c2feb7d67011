"""A run of the algorithm: gather the clients, federated rounds, personalization, results."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid

from potara_flwr.core.errors import ReplyError, RunError, SettingsError
from potara_flwr.core.stopwatch import Stopwatch
from potara_flwr.data.labels import read_classes, shortened, write_classes
from potara_flwr.messages.grid import MeteredGrid
from potara_flwr.messages.ledger import Ledger
from potara_flwr.messages.reports import Report, unpack
from potara_flwr.messages.transport import record_of
from potara_flwr.methods import METHODS
from potara_flwr.models.adapter import kind_of
from potara_flwr.results.folder import summarize
from potara_flwr.results.rows import total_rows
from potara_flwr.results.saving import save_federated
from potara_flwr.server.checkpoint import Checkpoint
from potara_flwr.server.gathering import gather_clients
from potara_flwr.server.rounds import RoundResult, run_rounds
from potara_flwr.server.strategy import privacy_entry, strategy_of, with_noise
from potara_flwr.settings.schema import Settings
from potara_flwr.tasks.workbench import workbench


class RunCallback:
    """The moments of a run at which something else may happen. Here nothing does."""

    def before_rounds(self, run: FederatedRun) -> None:
        """Prepare for the first round, or the next one of a run that goes on."""

    def after_round(self, run: FederatedRun, result: RoundResult) -> None:
        """Take the result of a round, which stands in ``run.rounds`` already."""

    def on_reply(self, run: FederatedRun, reply: Message) -> None:
        """Take a client's answer to the last message, which may be an error."""

    def at_end(self, run: FederatedRun, results: dict[str, Any]) -> None:
        """Take the results, which are not saved yet."""


class FederatedRun:
    """A run, from the moment when its clients are gathered.

    Parameters
    ----------
    grid : Grid
        Flower's grid, or the in-process one.
    settings : Settings
        All of the run.
    folder : Path
        The results folder.
    run_key : str
        Tells the run from all others; one that goes on has that of its first attempt.
    callbacks : iterable of RunCallback
        Are told what happens, in this order.
    wanted : set of int, optional
        The clients that are waited for and asked to personalize; all by default.

    Raises
    ------
    SettingsError
        A setting does not fit the clients' data, or a client runs other code.
    RunError
        Too few clients can take part.
    """

    def __init__(
        self,
        grid: Grid,
        settings: Settings,
        folder: Path,
        run_key: str,
        callbacks: Iterable[RunCallback] = (),
        wanted: set[int] | None = None,
    ) -> None:
        self.settings = settings
        self.folder = folder
        self.run_key = run_key
        self.callbacks = list(callbacks)
        self.wanted = wanted
        self.method = METHODS[settings.method]
        self.total = self.method.rounds(settings)
        """How many federated rounds the run has."""
        self.clock = Stopwatch()
        self.ledger = Ledger(names=settings.federation.names)
        self.grid = MeteredGrid(grid, self.ledger)
        self.classes = known_classes(settings)
        """By name, those of the head that all clients share; empty where there is none."""
        self.descriptions = gather_clients(self.grid, settings, self._classes_told, wanted)
        self.clock.lap("gathering")
        self.strategy = strategy_of(self.ledger, settings, self.descriptions)
        self.arrays = initial_arrays(settings)
        """The server's arrays after the last round."""
        self.rounds: list[dict[str, Any]] = []
        """What ``results.json`` says of every round so far."""
        self.interruptions = 0
        """Attempts that may have ended within a round whose average was sent already."""

    @property
    def told(self) -> dict[str, str]:
        """What every message of the run says: which run it is, and its classes."""
        return {"run-key": self.run_key, **self._classes_told}

    @property
    def _classes_told(self) -> dict[str, str]:
        """The classes where a node with data of its own could not know them."""
        named = read_classes(self.settings.data.classes)
        own = self.settings.task.name == "digits"
        return {} if named or own or not self.classes else {"classes": write_classes(self.classes)}

    @property
    def asked(self) -> dict[int, int]:
        """Node id → client, of those that are asked to personalize."""
        clients = self.ledger.clients
        return {
            node: client
            for node, client in clients.items()
            if self.wanted is None or client in self.wanted
        }

    def go_on(
        self,
        earlier: Checkpoint,
        ledger: Mapping[str, Any],
        seconds: Mapping[str, float],
        interruptions: int,
    ) -> None:
        """Put the run where an earlier attempt was after its last round.

        Parameters
        ----------
        earlier : Checkpoint
            Its last one.
        ledger, seconds : mapping
            What it wrote down of the communication, and its seconds by phase.
        interruptions : int
            How many attempts may have ended within a round.

        Raises
        ------
        SettingsError
            The data has other classes now.
        """
        if (before := earlier.progress.classes) != list(self.classes):
            raise SettingsError(
                f"{self.settings.run.earlier[0]}: the run in {self.folder} had the classes "
                f"{shortened(before)}, but the data has {shortened(self.classes)} now"
            )
        self.arrays = earlier.restore(self.strategy)
        self.run_key = earlier.progress.run_key
        self.rounds = earlier.progress.rounds
        self.interruptions = interruptions
        self.ledger.go_on(ledger, self.wanted)
        self.clock.add(seconds)

    def federate(self) -> None:
        """Run the rounds that are left, of the tensors that the method shares."""
        for callback in self.callbacks:
            callback.before_rounds(self)
        results = run_rounds(
            with_noise(self.strategy, self.settings), self.grid, self.arrays,
            done=len(self.rounds), total=self.total, told=self.told,
            timeout=self.settings.federation.timeout,
        )  # fmt: skip
        for result in results:
            self.arrays = result.arrays
            self.rounds.append(self._record(result, self.clock.lap("rounds")))
            for callback in self.callbacks:
                callback.after_round(self, result)
        self.clock.lap("rounds")

    def personalize(self) -> list[dict[str, Any]]:
        """Have the clients take the method's end, for Potara local training, traces, weight and
        merge: on the clients, which send numbers only. Return their results, sorted.

        Raises
        ------
        RunError
            No client could be personalized.
        """
        config = ConfigRecord({**self.told})
        messages = self.strategy.configure_personalize(self.total, self.arrays, config, self.asked)
        seconds, clients = self._seconds_in_rounds(), []
        for reply in self.grid.replies(messages, timeout=self.settings.federation.timeout):
            for callback in self.callbacks:
                callback.on_reply(self, reply)
            if entry := self._entry(reply, seconds):
                clients.append(entry)
        clients.sort(key=lambda entry: entry["client"])
        if not clients:
            reasons = self.ledger.absent(None, "personalize")
            raise RunError(f"no client could be personalized ({reasons})")
        self._check_steps(clients)
        self.clock.lap("personalization")
        return clients

    def finish(self, clients: list[dict[str, Any]]) -> dict[str, Any]:
        """Save the federated adapter, and return what goes into ``results.json``."""
        summary = summarize(clients)
        results = {
            "method": self.settings.method,
            "config": self.settings.computed(),
            "classes": self.classes,
            "rounds": self.rounds,
            **self.ledger.to_json(),
            **privacy_entry(self.settings, self.rounds, self.interruptions),
            "clients": clients,
            "rows": total_rows(clients),
            "federated_sha256": self._save_federated(summary),
            "summary": summary,
            "seconds": self.clock.seconds,
        }
        for callback in self.callbacks:
            callback.at_end(self, results)
        return results

    def _record(self, result: RoundResult, seconds: float) -> dict[str, Any]:
        """Return the entry of a round in ``results.json``."""
        exchanges = [item for item in self.ledger.exchanges if item.round == result.round]
        return {
            "round": result.round,
            "loss": result.loss,
            "accuracy": result.accuracy,
            "training_loss": result.training_loss,
            "bytes_down": sum(item.bytes_down for item in exchanges),
            "bytes_up": sum(item.bytes_up for item in exchanges),
            "aggregation_error": result.aggregation_error,
            "norm_ratio": result.norm_ratio,
            "seconds": seconds,
            "clients": result.clients,
            "training_seconds": result.client_seconds,
        }

    def _entry(
        self, reply: Message, seconds_in_rounds: Mapping[int, list[float]]
    ) -> dict[str, Any] | None:
        """Return the entry of a client in ``results.json``; refuse a reply that cannot be used."""
        client = self.ledger.clients[reply.metadata.src_node_id]
        try:
            if reply.has_error():
                raise ReplyError(reply.error.reason or f"error {reply.error.code}")
            report = unpack(reply.content, Report, self.total)
            report.check_adapters(set(self.method.adapters))
        except ReplyError as error:
            self.ledger.refuse(client, None, "personalize", str(error))
            return None
        names = self.settings.federation.names
        entry = self.descriptions[client].to_json(names) | report.to_json()
        if not self.method.keeps_state(self.settings):  # nor does it count what it did before
            seconds = seconds_in_rounds.get(client, [])
            entry["optimizer_steps"] += self.method.steps_in_rounds(self.settings, len(seconds))
            entry["seconds"]["training"] += sum(seconds)
        return entry

    def _seconds_in_rounds(self) -> dict[int, list[float]]:
        """Return client → its seconds of training in every round in which it trained."""
        found: defaultdict[int, list[float]] = defaultdict(list)
        for record in self.rounds:
            every = zip(record["clients"], record.get("training_seconds", ()), strict=False)
            for client, seconds in every:
                if seconds is not None:
                    found[client].append(seconds)
        return found

    def _check_steps(self, clients: list[dict[str, Any]]) -> None:
        """Write down which personalized clients have taken fewer optimizer steps than the server
        has updates of theirs: what they kept between the rounds was lost on the way.
        """
        absent = {
            (item.client, item.round)
            for item in [*self.ledger.refused, *self.ledger.missing]
            if item.kind == "train"
        }
        trained = Counter(
            client
            for record in self.rounds
            for client in record["clients"]
            if (client, record["round"]) not in absent
        )
        for entry in clients:
            client, steps = entry["client"], entry["optimizer_steps"]
            rounds = trained[client]
            expected = self.method.steps(self.settings, rounds)
            if steps < expected:
                self.ledger.miss(
                    client, None, "state", f"it has taken {steps} optimizer steps, but {expected} "
                    f"with those of the {rounds} rounds in which it trained: its state was lost"
                )  # fmt: skip

    def _save_federated(self, summary: Mapping[str, Any]) -> str | None:
        """Save the federated adapter as the clients were sent it, where the method has one; return
        its SHA-256.
        """
        if "federated" not in self.method.adapters:
            return None
        model = workbench(self.settings).model
        values = self.strategy.encoded(self.arrays).values
        federated = model.initial | {name: torch.from_numpy(a) for name, a in values.items()}
        if self.settings.task.head == "local":
            federated = {name: t for name, t in federated.items() if kind_of(name) != "head"}
        accuracy = summary["mean"]["accuracy"]["federated"]
        return save_federated(
            self.folder / "federated", federated, model, self.settings, accuracy, self.classes
        )


def known_classes(settings: Settings) -> tuple[str, ...]:
    """Return the classes, by name, of the head that all clients share; empty where there is none.

    Raises
    ------
    SettingsError
        The data cannot be read, or its sources have different classes.
    """
    return workbench(settings).task.classes if settings.task.head == "shared" else ()


def initial_arrays(settings: Settings) -> ArrayRecord:
    """Return the shared tensors of the initial adapter."""
    method, initial = METHODS[settings.method], workbench(settings).model.initial
    return record_of(
        {name: at.numpy() for name, at in initial.items() if method.sends(name, settings)}
    )
