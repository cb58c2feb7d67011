"""What a process loads once: the task, the base model and the data of the clients it serves."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

from potara_flwr.adapters import LoraModel
from potara_flwr.config import RunSettings, Settings
from potara_flwr.tasks import TASKS
from potara_flwr.tasks.base import ClientData


class Workbench:
    """A task, its model, and each client's samples from when they are first asked for."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.task = TASKS[settings.task.name]()
        self._clients: dict[int, ClientData] = {}

    @functools.cached_property
    def model(self) -> LoraModel:
        """The base model with room for an adapter."""
        base = self.task.load_base_model(self.settings)
        return LoraModel(base, self.settings.lora, self.task.head_modules, self.settings.seed)

    def client(self, client: int) -> ClientData:
        """Return the samples of a client."""
        if client not in self._clients:
            self._clients[client] = self.task.load_client(self.settings, client)
        return self._clients[client]


def workbench(settings: Settings) -> Workbench:
    """Return this process's workbench for ``settings``; a new one only when settings change."""
    return _workbench(settings.model_copy(update={"run": RunSettings()}))


@functools.lru_cache(maxsize=1)
def _workbench(settings: Settings) -> Workbench:
    return Workbench(settings)


@functools.cache
def code_version() -> str:
    """Return a hash of this package's source, by which two processes tell if they run the same."""
    digest = hashlib.sha256()
    package = Path(__file__).parent
    for file in sorted(package.rglob("*.py")):
        digest.update(f"{file.relative_to(package)}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:12]
