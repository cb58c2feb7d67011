"""A client between two messages: where its state is, how it is put together from it, and how an
adapter leaves and reaches it: the shared tensors of it, encoded for transport.
"""

from __future__ import annotations

from pathlib import Path

import torch
from flwr.app import ArrayRecord, Context, Message

from potara_flwr.client.store import ClientStore, State
from potara_flwr.core.errors import TrainingError
from potara_flwr.messages.transport import Arrays, decode, encode, is_finite
from potara_flwr.methods import METHODS, Client
from potara_flwr.models.adapter import Adapter, kind_of
from potara_flwr.results.folder import STATE, results_folder
from potara_flwr.settings.schema import Settings
from potara_flwr.strategies.lora_averaging import record_of, values_of
from potara_flwr.tasks.workbench import workbench

HEAD = "local head"


def state_dir(settings: Settings, context: Context) -> Path:
    """Return the folder where this node keeps what outlives a message: its ``state-dir``, else
    ``state`` in the results folder.
    """
    if own := str(context.node_config.get("state-dir", "")):
        return Path(own).expanduser().absolute()
    return results_folder(settings, context.run_id) / STATE


def adapters_folder(settings: Settings, client: int, message: Message, context: Context) -> Path:
    """Return where a client saves what it ends with: in its state, where it has a ``state-dir``
    of its own, else in the results folder.
    """
    if context.node_config.get("state-dir", ""):
        return store_of(settings, client, message, context).folder / "personalized"
    return results_folder(settings, context.run_id) / "clients" / str(client)


def store_of(settings: Settings, client: int, message: Message, context: Context) -> ClientStore:
    """Return the client's state of the run that a message belongs to."""
    run_key = str(message.content.config_records["config"]["run-key"])
    data = workbench(settings).client(client)
    return ClientStore(state_dir(settings, context), run_key, client, settings, data)


def round_of(message: Message) -> int:
    """Return the round that a message belongs to; after the rounds, the last one."""
    return int(str(message.content.config_records["config"]["server-round"]))


def load_client(settings: Settings, client: int, store: ClientStore, state: State) -> Client:
    """Return a client with what it has kept, its optimizer steps and their seconds."""
    bench = workbench(settings)
    this = METHODS[settings.method].client(
        bench.model_for(client), bench.task, bench.client(client), settings
    )
    this.kept = dict(state.kept)
    this.steps, this.seconds = state.steps, state.seconds
    this.once = store.once
    return this


def read(client: Client, record: ArrayRecord) -> Adapter:
    """Return the adapter in a message; what is not sent is as in the initial one, but for a local
    head, which is the client's own.
    """
    sent = decode(values_of(record), client.settings.federation.transport)
    own = client.kept.get(HEAD, {})
    return {
        name: torch.from_numpy(sent[name]) if name in sent else own.get(name, initial)
        for name, initial in client.model.initial.items()
    }


def write(
    client: Client, adapter: Adapter, received: Adapter, residuals: Arrays
) -> tuple[ArrayRecord, Arrays]:
    """Return the shared tensors of a trained adapter as they travel, and what was rounded away.

    With ``int8`` that is the change to what was received, plus what was rounded away the last time
    (``residuals``).

    Raises
    ------
    TrainingError
        A number is beyond those that travel.
    """
    method, transport = METHODS[client.settings.method], client.settings.federation.transport
    settings = client.settings
    if settings.task.head == "local":
        client.kept[HEAD] = {name: adapter[name] for name in adapter if kind_of(name) == "head"}
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
