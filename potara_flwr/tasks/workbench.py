"""What a process loads once: the task, the base model and the data of the clients it serves."""

from __future__ import annotations

import functools
from pathlib import Path

from potara_flwr.core.version import code_version
from potara_flwr.models.base_models import find_device
from potara_flwr.models.lora import LoraModel
from potara_flwr.settings.groups import RunSettings
from potara_flwr.settings.schema import Settings
from potara_flwr.tasks import TASKS
from potara_flwr.tasks.base import ClientData
from potara_flwr.tasks.cache import kept_client


class Workbench:
    """A task, its model, and each client's samples from when they are first asked for."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.task = TASKS[settings.task.name]()
        self.kept_in: Path | None = None
        """Where samples are kept for the next process; None where nobody needs them."""
        self._clients: dict[int, ClientData] = {}

    @functools.cached_property
    def model(self) -> LoraModel:
        """The base model with room for an adapter."""
        settings = self.settings
        base = self.task.load_base_model(settings)
        # What is spread over several GPUs, or quantized, is where it belongs already.
        placed = settings.model.device_map or settings.model.quantize != "none"
        device = None if placed else find_device(settings.model)
        model = LoraModel(base, settings.lora, self.task.head_modules, settings.seed, device)
        if settings.model.gradient_checkpointing:
            model.checkpoint_gradients()
        return model

    def model_for(self, client: int) -> LoraModel:
        """Return the base model with the initial adapter of one client, whose head has the classes
        of its own data where ``task.head`` is ``local``.
        """
        return self.model_of(self.client(client))

    def model_of(self, data: ClientData) -> LoraModel:
        """Return the base model with the initial adapter of the client with these samples."""
        if self.settings.task.head == "shared" or not data.num_classes:
            return self.model
        return self.model.with_classes(data.num_classes, self.settings.seed)

    def client(self, client: int) -> ClientData:
        """Return the samples of a client."""
        if client not in self._clients:
            self._clients[client] = (
                self.task.load_client(self.settings, client)
                if self.kept_in is None
                else kept_client(self.kept_in, self.task, self.settings, client, code_version())
            )
        return self._clients[client]


def workbench(settings: Settings) -> Workbench:
    """Return this process's workbench for ``settings``; a new one only when settings change."""
    return _workbench(settings.model_copy(update={"run": RunSettings()}))


@functools.lru_cache(maxsize=1)
def _workbench(settings: Settings) -> Workbench:
    return Workbench(settings)
