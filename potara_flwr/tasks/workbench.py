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
from potara_flwr.tasks.cache import cached_client


class Workbench:
    """A task, its model, and each client's samples from when they are first asked for.

    Parameters
    ----------
    settings : Settings
        Of the run, as they hold where the samples are.
    models : dict, optional
        Number of classes → base model of the same run: taken from there, and put there.
    """

    def __init__(self, settings: Settings, models: dict[int, LoraModel] | None = None) -> None:
        self.settings = settings
        self.task = TASKS[settings.task.name](settings)
        self._models = {} if models is None else models
        self._clients: dict[tuple[int, Path | None], ClientData] = {}

    @functools.cached_property
    def model(self) -> LoraModel:
        """The base model with room for an adapter."""
        num_classes = len(self.task.classes)
        if num_classes not in self._models:
            self._models[num_classes] = self._load_model()
        return self._models[num_classes]

    def _load_model(self) -> LoraModel:
        settings = self.settings
        base = self.task.load_base_model()
        # What is spread over several GPUs, or quantized, is where it belongs already.
        in_place = settings.model.device_map or settings.model.quantize != "none"
        device = None if in_place else find_device(settings.model)
        model = LoraModel(
            base, settings.lora, self.task.head_modules, settings.seed, device,
            self.task.padding_side,
        )  # fmt: skip
        if settings.model.gradient_checkpointing:
            model.checkpoint_gradients()
        return model

    def model_for(self, data: ClientData) -> LoraModel:
        """Return the base model with the initial adapter of the client with these samples: of its
        rank, and with a head of the classes of its own data where ``task.head`` is ``local``.
        """
        model, rank = self.model, self.settings.rank_of(data.client)
        if self.settings.task.head == "local" and data.classes:
            model = model.with_classes(len(data.classes), self.settings.seed)
        return model if rank is None else model.with_rank(rank)

    def client(self, client: int, cache: Path | None = None) -> ClientData:
        """Return the samples of a client.

        Parameters
        ----------
        cache : Path, optional
            Folder where they are prepared samples for the next process, too
            (:func:`~potara_flwr.tasks.cache.cached_client`).
        """
        if (client, cache) not in self._clients:
            self._clients[client, cache] = (
                self.task.load_client(client)
                if cache is None
                else cached_client(cache, self.task, client, code_version())
            )
        return self._clients[client, cache]


def workbench(settings: Settings, run: Settings | None = None) -> Workbench:
    """Return this process's workbench for ``settings``; what another run has loaded is dropped.

    Parameters
    ----------
    settings : Settings
        Those of the run, or what these are on a node with data of its own.
    run : Settings, optional
        Those of the run. All nodes of a run share its base model, and each has its own samples.
    """
    settings, run = (
        one.model_copy(update={"run": RunSettings()}) for one in (settings, run or settings)
    )
    benches, models = _of_run(run)
    if settings not in benches:
        benches[settings] = Workbench(settings, models)
    return benches[settings]


@functools.lru_cache(maxsize=1)
def _of_run(run: Settings) -> tuple[dict[Settings, Workbench], dict[int, LoraModel]]:
    """Return the workbenches of a run in this process, and the base models they share."""
    return {}, {}
