"""One client as a method sees it."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, field

from potara_flwr.core.seeds import derive_seed
from potara_flwr.models.adapter import Adapter
from potara_flwr.models.lora import LoraModel
from potara_flwr.models.runner import AdapterRunner
from potara_flwr.settings.schema import Settings
from potara_flwr.tasks.base import ClientData, Samples, Task
from potara_flwr.training.local_steps import Once, Proximal, Score, each_time, evaluate, train


@dataclass
class Client:
    """One client as a method sees it: model, samples, and what it keeps between the rounds."""

    model: LoraModel
    task: Task
    data: ClientData
    settings: Settings
    samples: Samples
    """What it trains on."""
    kept: dict[str, Adapter] = field(default_factory=dict)
    """What stays on the client from one message to the next, and is never sent."""
    steps: int = 0
    """Optimizer steps so far."""
    seconds: float = 0.0
    """Wall-clock time of these steps."""
    once: Once = each_time
    """Does a training after the rounds, or remembers what it gave when it was done before."""

    def train(
        self,
        start: Adapter,
        *,
        steps: int,
        purpose: tuple[str | int, ...],
        when: str,
        model: AdapterRunner | None = None,
        frozen: Collection[str] = (),
        proximal: Proximal | None = None,
    ) -> tuple[Adapter, float]:
        """Take optimizer steps from ``start`` on the client's samples, and count them.

        Parameters
        ----------
        purpose : tuple
            Names the seed of the sample order and dropout.
        when : str
            For the error message, e.g. ``round 2``.
        model : AdapterRunner, optional
            Runs the tensors that are trained; by default the base model with one adapter.
        frozen, proximal
            As in :func:`potara_flwr.training.local_steps.train`.

        Returns
        -------
        tuple of Adapter and float
            The trained tensors, and the mean loss over the steps.
        """
        began = time.perf_counter()
        trained = self._train(start, steps, purpose, when, model, frozen, proximal)
        self.count(steps, time.perf_counter() - began)
        return trained

    def _train(
        self,
        start: Adapter,
        steps: int,
        purpose: tuple[str | int, ...],
        when: str,
        model: AdapterRunner | None,
        frozen: Collection[str] = (),
        proximal: Proximal | None = None,
    ) -> tuple[Adapter, float]:
        return train(
            model or self.model,
            self.task,
            start,
            self.samples,
            self.settings.train,
            steps=steps,
            seed=derive_seed(self.settings.seed, *purpose, self.data.client),
            who=f"client {self.data.client}, {when}",
            frozen=frozen,
            proximal=proximal,
        )

    def train_in_round(
        self,
        start: Adapter,
        server_round: int,
        *,
        stream: str = "round",
        model: AdapterRunner | None = None,
        frozen: Collection[str] = (),
        proximal: Proximal | None = None,
    ) -> tuple[Adapter, float]:
        """Take the local steps of one federated round; ``stream`` names the order of samples."""
        return self.train(
            start,
            steps=self.settings.train.local_steps,
            purpose=(stream, server_round),
            when=f"round {server_round}",
            model=model,
            frozen=frozen,
            proximal=proximal,
        )

    def train_alone(
        self, start: Adapter, steps: int, model: AdapterRunner | None = None
    ) -> tuple[Adapter, float]:
        """Take optimizer steps after the rounds, sending nothing, if they were not taken before.

        Returns
        -------
        tuple of Adapter and float
            The trained tensors, and the seconds that the steps took.
        """
        name = "local training"
        trained, seconds = self.once(
            name, start, lambda: self._train(start, steps, (name,), name, model)[0]
        )
        self.count(steps, seconds)
        return trained, seconds

    def count(self, steps: int, seconds: float) -> None:
        """Add optimizer steps and the seconds they took."""
        self.steps += steps
        self.seconds += seconds

    def score(self, adapter: Adapter, model: AdapterRunner | None = None) -> Score:
        """Return the score of an adapter on this client's test samples."""
        size = self.settings.train.evaluation_batch_size
        return evaluate(model or self.model, self.task, adapter, self.data.test, size)
