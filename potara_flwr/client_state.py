"""A client between two messages: what it keeps lives in Flower's ``Context.state``, and only there.

Also how an adapter leaves and reaches a client: the shared tensors of it, encoded for transport.
"""

from __future__ import annotations

import torch
from flwr.app import ArrayRecord, Context, MetricRecord

from potara_flwr.adapters import Adapter, kind_of
from potara_flwr.config import Settings
from potara_flwr.methods import METHODS, Client
from potara_flwr.strategies.lora_averaging import record_of, values_of
from potara_flwr.transport import decode, encode
from potara_flwr.workbench import workbench

KEPT, RESIDUALS, WORK, HEAD = "kept.", "residuals", "work", "local head"


def load_client(settings: Settings, client: int, context: Context) -> Client:
    """Return a client with what it has kept, its optimizer steps and their seconds."""
    bench = workbench(settings)
    data = bench.client(client)
    out = METHODS[settings.method].keeps_calibration_out
    kept = {
        name.removeprefix(KEPT): dict(record.to_torch_state_dict())
        for name, record in context.state.array_records.items()
        if name.startswith(KEPT)
    }
    work = context.state.metric_records.get(WORK, MetricRecord({"steps": 0, "seconds": 0.0}))
    return Client(
        model=bench.model_for(client),
        task=bench.task,
        data=data,
        settings=settings,
        samples=data.train if out else data.train_and_calibration,
        kept=kept,
        steps=int(work["steps"]),  # type: ignore[arg-type]  # one number, not a list
        seconds=float(work["seconds"]),  # type: ignore[arg-type]
    )


def save_state(client: Client, context: Context) -> None:
    """Keep what the client must find again at the next message."""
    for name, adapter in client.kept.items():
        context.state[KEPT + name] = ArrayRecord(adapter)
    context.state[WORK] = MetricRecord({"steps": client.steps, "seconds": client.seconds})


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


def write(client: Client, adapter: Adapter, received: Adapter, context: Context) -> ArrayRecord:
    """Return the shared tensors of a trained adapter as they travel.

    With ``int8`` that is the change to what was received, plus what was rounded away the last time.
    """
    method, transport = METHODS[client.settings.method], client.settings.federation.transport
    settings = client.settings
    if settings.task.head == "local":
        client.kept[HEAD] = {name: adapter[name] for name in adapter if kind_of(name) == "head"}
    values = {name: t.numpy() for name, t in adapter.items() if method.sends(name, settings)}
    if transport != "int8":
        return record_of(encode(values, transport)[0])
    change = {name: array - received[name].numpy() for name, array in values.items()}
    before = context.state.array_records.get(RESIDUALS, ArrayRecord())
    sent, left = encode(change, transport, values_of(before))
    context.state[RESIDUALS] = record_of(left)
    return record_of(sent)
