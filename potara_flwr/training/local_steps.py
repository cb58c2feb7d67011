"""Local steps and evaluation of an adapter on one client's samples."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from potara_flwr.core.errors import TrainingError
from potara_flwr.core.seeds import derive_seed
from potara_flwr.models.adapter import Adapter
from potara_flwr.models.lora import device_of
from potara_flwr.models.runner import AdaptedModel, AdapterRunner
from potara_flwr.settings.groups import TrainSettings
from potara_flwr.tasks.base import Samples, Task, num_samples, take
from potara_flwr.training.schedules import CONSTANT, Course

EVALUATION_BATCH = 64


@dataclass(frozen=True)
class Score:
    """Mean loss and accuracy (the mean of the task's scores) over ``num_samples`` samples."""

    loss: float
    accuracy: float
    num_samples: int


@dataclass(frozen=True)
class Proximal:
    """The pull μ/2 · ‖θ − θ₀‖² towards a fixed adapter θ₀ (FedProx: arXiv 1812.06127, eq. 2)."""

    mu: float
    centre: Adapter

    def __call__(self, adapter: Adapter) -> Tensor:
        """Return the penalty on an adapter, a scalar."""
        return (
            self.mu
            / 2
            * torch.stack(
                [
                    (tensor - self.centre[name].to(tensor.device)).square().sum()
                    for name, tensor in adapter.items()
                ]
            ).sum()
        )


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread: sums come in one order, so every runtime gives the same bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def dropout_on(model: AdapterRunner) -> Iterator[None]:
    """Put the model in training mode, and back in evaluation mode whatever happens."""
    model.module.train()
    try:
        yield
    finally:
        model.module.eval()


def on_device(adapter: Adapter, device: torch.device) -> Adapter:
    """Return an adapter on a device; between messages it is on the CPU."""
    return {name: tensor.to(device) for name, tensor in adapter.items()}


def fork_rng(device: torch.device) -> AbstractContextManager[None]:
    """Leave the global generators of the CPU and of ``device`` as they are."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def batches(num: int, batch_size: int, steps: int, seed: int) -> Iterator[Tensor]:
    """Yield the sample indices of each step: epochs in a fresh random order, run together."""
    generator = torch.Generator().manual_seed(seed)
    queue = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        while len(queue) < min(batch_size, num):
            queue = torch.cat([queue, torch.randperm(num, generator=generator)])
        yield queue[:batch_size]
        queue = queue[batch_size:]


Descent = Callable[[Adapter, Sequence[Samples]], Tensor | float]
"""Tensors in training, and a batch in parts → its mean loss, whose gradients are added to those of
the tensors: what a step does before the optimizer's. To ask for the number is to wait for a GPU."""


def plain_descent(model: AdapterRunner, task: Task) -> Descent:
    """Return the gradients of the mean loss, part after part."""

    def descend(tensors: Adapter, batch: Sequence[Samples]) -> Tensor | float:
        value: Tensor | float = 0.0
        num = sum(num_samples(part) for part in batch)
        for part in batch:
            inputs = task.collate(part)
            loss = task.losses(model(tensors, inputs), inputs).mean()
            if len(batch) > 1:
                loss = loss * (num_samples(part) / num)
            loss.backward()
            value = value + loss.detach().double()
        return value

    return descend


class Learner:
    """Tensors in training, with an AdamW of their own; ``frozen`` ones stay as they are."""

    def __init__(
        self,
        adapter: Adapter,
        settings: TrainSettings,
        device: torch.device,
        frozen: Collection[str] = (),
    ) -> None:
        self.settings = settings
        self.tensors = {
            name: tensor.to(device, copy=True).requires_grad_(name not in frozen)
            for name, tensor in adapter.items()
        }
        self.parameters = [tensor for tensor in self.tensors.values() if tensor.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            foreach=True,
        )

    def step(self, factor: float) -> None:
        """Step along the gradients, clipped, at a share of the highest learning rate."""
        if self.settings.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.max_grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * factor
        self.optimizer.step()

    @property
    def adapter(self) -> Adapter:
        """The tensors as they are now, on the CPU."""
        return {name: tensor.detach().cpu() for name, tensor in self.tensors.items()}


def check_loss(loss: float, who: str, when: str, rate: str) -> None:
    """Check that training goes on.

    Parameters
    ----------
    who, when : str
        E.g. ``client 3, round 2`` and ``step 1 of 10``.
    rate : str
        The setting to lower, and what it is now.

    Raises
    ------
    TrainingError
        The loss is not finite.
    """
    if not math.isfinite(loss):
        raise TrainingError(f"{who}: the loss is {loss} at {when}; lower {rate}")


def check_finite(adapter: Adapter, who: str, steps: int, rate: str) -> None:
    """Check what training has given, see :func:`check_loss`."""
    if not all(tensor.isfinite().all() for tensor in adapter.values()):
        raise TrainingError(f"{who}: the adapter is not finite after {steps} steps; lower {rate}")


def train(
    model: AdapterRunner,
    task: Task,
    adapter: Adapter,
    samples: Samples,
    settings: TrainSettings,
    *,
    steps: int,
    seed: int,
    who: str,
    frozen: Collection[str] = (),
    proximal: Proximal | None = None,
    course: Course = CONSTANT,
    descent: Descent | None = None,
    deadline: float = math.inf,
) -> tuple[Adapter, float]:
    """Take ``steps`` AdamW steps from ``adapter``; return the new adapter and the mean loss.

    Parameters
    ----------
    seed : int
        Decides the order of the samples and dropout.
    who : str
        Who trains and when, for the error message, e.g. ``client 3, round 2``.
    frozen : collection of str
        Names of tensors that stay as they are.
    proximal : Proximal, optional
        A penalty that is added to the loss, but not to the mean that is returned.
    course : Course
        Of the learning rate.
    descent : callable, optional
        What gives a step its gradients and its loss; by default those of the mean loss.
    deadline : float
        Of the work, by ``time.monotonic()``, in seconds: nobody waits for it after that.

    Raises
    ------
    TrainingError
        The loss or the result is not finite, or the deadline is over; names ``who``
        and the step.
    """
    device = device_of(model.module)
    learner = Learner(adapter, settings, device, frozen)
    descend = descent or plain_descent(model, task)
    rate = f"train.learning-rate (now {settings.learning_rate:g})"
    total = 0.0
    with fork_rng(device), dropout_on(model):
        torch.manual_seed(derive_seed(seed, "dropout"))
        for step, indices in enumerate(
            batches(num_samples(samples), settings.batch_size, steps, seed), start=1
        ):
            if time.monotonic() > deadline:
                raise TrainingError(
                    f"{who}: too late, stopped at step {step} of {steps}; raise federation.timeout "
                    "or lower the number of steps"
                )
            learner.optimizer.zero_grad(set_to_none=True)
            parts_of_batch = indices.chunk(settings.accumulate)
            value = descend(learner.tensors, [take(samples, at, device) for at in parts_of_batch])
            if proximal is not None:
                proximal(learner.tensors).backward()
            learner.step(course.factor(step - 1))
            loss = float(value)  # not before the step: a GPU would stand still meanwhile
            check_loss(loss, who, f"step {step} of {steps}", rate)
            total += loss
    check_finite(learner.adapter, who, steps, rate)
    return learner.adapter, total / max(steps, 1)


@torch.no_grad()
def sample_losses(
    model: AdapterRunner,
    task: Task,
    adapter: Adapter,
    samples: Samples,
    batch_size: int = EVALUATION_BATCH,
) -> Tensor:
    """Return the loss of each sample, shape (n,), float64."""
    device = device_of(model.module)
    adapter = on_device(adapter, device)
    batches = (task.collate(part) for part in parts(samples, batch_size, device))
    losses = [task.losses(model(adapter, batch), batch).double() for batch in batches]
    return torch.cat(losses).cpu()


@torch.no_grad()
def evaluate(
    model: AdapterRunner,
    task: Task,
    adapter: Adapter,
    samples: Samples,
    batch_size: int = EVALUATION_BATCH,
) -> Score:
    """Return the mean loss and accuracy of ``adapter`` on ``samples``."""
    device = device_of(model.module)
    adapted = AdaptedModel(model, on_device(adapter, device))
    loss, correct = 0.0, 0.0
    for part in parts(samples, batch_size, device):
        losses, scores = task.scores(adapted, part)
        loss += losses.double().sum().item()
        correct += scores.double().sum().item()
    num = num_samples(samples)
    return Score(loss / num, correct / num, num)


def parts(samples: Samples, batch_size: int, device: torch.device) -> Iterator[Samples]:
    """Yield the samples, some at a time, in their order, on ``device``."""
    for start in range(0, num_samples(samples), batch_size):
        yield take(samples, slice(start, start + batch_size), device)
