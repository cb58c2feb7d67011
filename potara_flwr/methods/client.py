"""One client as a method sees it: model, samples, settings, and what it has so far."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from potara_flwr.core.seeds import derive_seed
from potara_flwr.models.adapter import Adapter
from potara_flwr.models.lora import LoraModel
from potara_flwr.models.runner import AdapterRunner
from potara_flwr.settings.schema import Settings
from potara_flwr.tasks.base import ClientData, Samples, Task
from potara_flwr.training.local_steps import Descent, Proximal, Score, evaluate, train
from potara_flwr.training.schedules import CONSTANT, Course

Memo = Callable[[str, Adapter, Callable[[], Adapter]], tuple[Adapter, float]]
"""Name of a training, what it starts from, and the training itself → the adapter that it gives, and
the seconds that it took: now, or when it was done before."""


def no_memo(name: str, start: Adapter, training: Callable[[], Adapter]) -> tuple[Adapter, float]:
    """Train, whatever was done before: the :data:`Memo` that remembers nothing."""
    began = time.perf_counter()
    return training(), time.perf_counter() - began


@dataclass
class Client:
    """One client as a method sees it."""

    model: LoraModel
    task: Task
    data: ClientData
    settings: Settings
    samples: Samples
    """What it trains on."""
    personal: dict[str, Adapter] = field(default_factory=dict)
    """Its personal parameters: what stays on it between messages, and is never sent."""
    steps: int = 0
    """Optimizer steps so far."""
    seconds: float = 0.0
    """Wall-clock time of these steps."""
    memo: Memo = no_memo
    """Remembers trainings after the rounds, where it can."""
    rounds: int = 0
    """Federated rounds of the method."""
    deadline: float = math.inf
    """When nobody waits for it any more, by ``time.monotonic()``, in seconds."""

    def train(
        self,
        start: Adapter,
        *,
        steps: int,
        purpose: tuple[str | int, ...],
        when: str,
        samples: Samples | None = None,
        model: AdapterRunner | None = None,
        frozen: Collection[str] = (),
        proximal: Proximal | None = None,
        course: Course = CONSTANT,
        descent: Descent | None = None,
    ) -> tuple[Adapter, float]:
        """Take optimizer steps from ``start`` on the client's samples, and count them.

        Parameters
        ----------
        purpose : tuple
            Names the seed of the sample order and dropout.
        when : str
            For the error message, e.g. ``round 2``.
        samples : Samples, optional
            What it trains on now; by default what it always does.
        model : AdapterRunner, optional
            Runs the tensors that are trained; by default the base model with one adapter.
        frozen, proximal, course, descent
            As in :func:`potara_flwr.training.local_steps.train`.

        Returns
        -------
        tuple of Adapter and float
            The trained tensors, and the mean loss over the steps.
        """
        began = time.perf_counter()
        trained = train(
            model or self.model,
            self.task,
            start,
            self.samples if samples is None else samples,
            self.settings.train,
            steps=steps,
            seed=derive_seed(self.settings.seed, *purpose, self.data.client),
            who=f"client {self.data.client}, {when}",
            frozen=frozen,
            proximal=proximal,
            course=course,
            descent=descent,
            deadline=self.deadline,
        )
        self._count(steps, time.perf_counter() - began)
        return trained

    def train_in_round(
        self,
        start: Adapter,
        server_round: int,
        *,
        stream: str = "round",
        model: AdapterRunner | None = None,
        frozen: Collection[str] = (),
        proximal: Proximal | None = None,
        descent: Descent | None = None,
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
            course=self.course_of(server_round),
            descent=descent,
        )

    def course_of(self, server_round: int) -> Course:
        """Return the course of the learning rate in one federated round."""
        settings = self.settings.train
        done, total = ((at * settings.local_steps) for at in (server_round - 1, self.rounds))
        return Course(settings.schedule, settings.warmup_steps, done, total)

    def train_alone(
        self,
        start: Adapter,
        steps: int,
        *,
        purpose: str = "local training",
        samples: Samples | None = None,
        model: AdapterRunner | None = None,
        done: int = 0,
        total: int | None = None,
    ) -> tuple[Adapter, float]:
        """Take optimizer steps after the rounds, sending nothing, if they were not taken before.

        Parameters
        ----------
        done, total : int
            Steps of local training before these, and all of them; by default these are all. They
            decide the learning rate.

        Returns
        -------
        tuple of Adapter and float
            The trained tensors, and the seconds that the steps took.
        """
        before = self.steps, self.seconds
        settings = self.settings.local
        whole = steps if total is None else total
        course = Course(settings.schedule, settings.warmup_steps, done, whole)

        def training() -> Adapter:
            when = "local training"
            return self.train(
                start, steps=steps, purpose=(purpose,), when=when, samples=samples, model=model,
                course=course,
            )[0]  # fmt: skip

        trained, seconds = self.memo(purpose, start, training)
        self.steps, self.seconds = before
        self._count(steps, seconds)
        return trained, seconds

    def score(self, adapter: Adapter, model: AdapterRunner | None = None) -> Score:
        """Return the score of an adapter on this client's test samples."""
        size = self.settings.train.evaluation_batch_size
        return evaluate(model or self.model, self.task, adapter, self.data.test, size)

    def _count(self, steps: int, seconds: float) -> None:
        self.steps += steps
        self.seconds += seconds
