"""A client of a run, as its node answers a message for it: its settings and samples, its state, and
how an adapter reaches and leaves it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, Context, Message

from potara_flwr.client.node import Node, read_node
from potara_flwr.client.store import ClientStore, State
from potara_flwr.core.arrays import Arrays
from potara_flwr.core.errors import TrainingError
from potara_flwr.messages.transport import decode, encode, is_finite, record_of, values_of
from potara_flwr.methods import METHODS, Client, Method
from potara_flwr.models.adapter import Adapter, kind_of
from potara_flwr.results.folder import STATE, results_folder
from potara_flwr.settings.schema import Settings
from potara_flwr.tasks.base import ClientData
from potara_flwr.tasks.workbench import Workbench, workbench

HEAD = "local head"


@dataclass(frozen=True)
class Participant:
    """One client, its node and the message that the node has for it."""

    number: int
    """Which client of the run, from 0."""
    node: Node
    settings: Settings
    """Of the run, as they hold on this node."""
    bench: Workbench
    classes: str
    """Those of the run, as the server names them; empty where it does not know them yet."""
    message: Message
    run_id: int
    deadline: float
    """When nobody waits for the reply any more, by ``time.monotonic()``, in seconds."""

    @classmethod
    def of(cls, settings: Settings, message: Message, context: Context) -> Participant:
        """Return who a message is for, by what the node says of itself.

        Raises
        ------
        NodeError
            What the node says of itself is wrong.
        """
        classes = str(message.content.config_records["config"].get("classes", ""))
        node, number, own = client_on(context.node_config, settings, classes)
        deadline = time.monotonic() + message.metadata.ttl
        bench = workbench(own, settings)
        return cls(number, node, own, bench, classes, message, context.run_id, deadline)

    @property
    def data(self) -> ClientData:
        """The client's samples; with a ``state-dir`` they are cached there for the next message.

        Raises
        ------
        SettingsError
            They cannot be used.
        """
        folder = self.node.state_folder
        return self.bench.client(self.number, folder and folder / "data")

    @property
    def method(self) -> Method:
        """The method of the run."""
        return METHODS[self.settings.method]

    @property
    def server_round(self) -> int:
        """The round that the message belongs to; after the rounds, the last one."""
        return int(str(self.message.content.config_records["config"]["server-round"]))

    @property
    def results(self) -> Path:
        """The run's results folder."""
        return results_folder(self.settings, self.run_id)

    @property
    def state_dir(self) -> Path:
        """Where this node keeps what outlives a message: its ``state-dir``, else ``state`` in the
        results folder.
        """
        return self.node.state_folder or self.results / STATE

    @property
    def store(self) -> ClientStore:
        """The client's state of the run that the message belongs to."""
        run_key = str(self.message.content.config_records["config"]["run-key"])
        return ClientStore(self.state_dir, run_key, self.number, self.settings, self.data)

    @property
    def adapters_folder(self) -> Path:
        """Where the client saves what it ends with: in its state, where it has a ``state-dir`` of
        its own, else in the results folder.
        """
        if self.node.state_folder:
            return self.store.folder / "personalized"
        return self.results / "clients" / str(self.number)

    def client(self, store: ClientStore, state: State) -> Client:
        """Return the client with what it has from earlier messages."""
        return self.method.client(
            self.bench,
            self.data,
            personal=dict(state.personal),
            steps=state.steps,
            seconds=state.seconds,
            memo=store.memo,
            deadline=self.deadline,
        )

    def received_by(self, client: Client) -> Adapter:
        """Return the adapter in the message; what is not sent is as in the initial one, but for a
        local head, which is the client's own.
        """
        record = self.message.content.array_records["arrays"]
        sent = decode(values_of(record), self.settings.federation.transport)
        own = client.personal.get(HEAD, {})
        return {
            name: torch.from_numpy(sent[name]) if name in sent else own.get(name, initial)
            for name, initial in client.model.initial.items()
        }


def client_on(
    node_config: Mapping[str, Any], settings: Settings, classes: str
) -> tuple[Node, int, Settings]:
    """Return what a node says of itself, which client it is, and a run's settings as it has them.

    Raises
    ------
    NodeError
        What it says is wrong.
    """
    node = read_node(node_config, settings.federation.names)
    number = node.client(settings)
    return node, number, node.settings(settings, number, classes)


def encode_update(
    client: Client, adapter: Adapter, received: Adapter, residuals: Arrays
) -> tuple[ArrayRecord, Arrays]:
    """Return the shared tensors of a trained adapter as they travel, and what was rounded away; a
    local head is kept.

    With ``int8`` that is the change to what was received, plus what was rounded away the last time
    (``residuals``).

    Raises
    ------
    TrainingError
        A number is beyond those that travel.
    """
    settings, transport = client.settings, client.settings.federation.transport
    method = METHODS[settings.method]
    if settings.task.head == "local":
        client.personal[HEAD] = {name: adapter[name] for name in adapter if kind_of(name) == "head"}
    values = {name: t.numpy() for name, t in adapter.items() if method.sends(name, settings)}
    if transport == "int8":  # what is sent is the change
        values = {name: array - received[name].numpy() for name, array in values.items()}
    sent, left = encode(values, transport, residuals)
    if beyond := [name for name, array in sent.items() if not is_finite(array)]:
        raise TrainingError(
            f"client {client.data.client}: {beyond[0]} has numbers beyond those that {transport} "
            "holds; choose federation.transport=bfloat16"
        )
    return record_of(sent), left
