"""What a warm node holds between messages: the base model, and the client's prepared samples."""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping
from logging import INFO
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.supercore import log

import potara_flwr
from potara_flwr.client.participant import Participant, client_on
from potara_flwr.data.sources import listed
from potara_flwr.models.base_models import find_device
from potara_flwr.run_config import from_flat
from potara_flwr.settings.groups import ModelSettings
from potara_flwr.tasks.workbench import workbench
from potara_flwr.training.local_steps import one_thread
from potara_flwr.warm.telling import is_warm, tell


def hold_for_next(participant: Participant, context: Context) -> None:
    """Ask the node's resident process, where there is one, to load what this message has needed.

    A base model on a GPU is not held: a process that has touched one cannot be forked.
    """
    settings = participant.settings
    if not is_warm() or participant.number >= settings.data.num_clients:
        return
    if reason := reason_against(settings.model):
        log(INFO, "warm: the next message loads the base model anew, for %s", reason)
        return
    names = [settings.task.model, *listed(settings.data.path), *listed(settings.data.root)]
    tell(
        Path(potara_flwr.__file__).parents[1],
        f"{__name__}:hold",
        json.dumps([settings.task.name, settings.task.model, str(settings.model)]),
        {
            "run-config": dict(context.run_config),
            "node-config": dict(context.node_config),
            "classes": participant.classes,
        },
        [str(Path(name).expanduser().absolute()) for name in names if name],
    )


def reason_against(settings: ModelSettings) -> str:
    """Return why a base model cannot be shared by a fork; empty where it can."""
    if settings.device_map:
        return f"model.device-map={settings.device_map} places it"
    if settings.quantize != "none":
        return f"model.quantize={settings.quantize} needs a GPU"
    device = find_device(settings)
    return "" if device.type == "cpu" else f"it is on {device}"


def hold(values: Mapping[str, Any]) -> str:
    """Load a base model and, where they are cached in a ``state-dir``, a client's samples, in the
    resident process; what another run has loaded is dropped. Return in words what is held.

    Without a ``state-dir`` they would have to be prepared, by libraries that leave threads behind.
    """
    settings = from_flat(values["run-config"])
    node, number, own = client_on(values["node-config"], settings, values["classes"])
    bench = workbench(own, settings)
    gc.collect()  # frees what another run has loaded
    with one_thread():
        _ = bench.model
        if (folder := node.state_folder) is None:
            return f"the base model {settings.task.model}"
        bench.client(number, folder / "data")
    return f"the base model {settings.task.model} and the samples of client {number}"
