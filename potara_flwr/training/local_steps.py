"""Local steps and evaluation of an adapter on one client's samples."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator
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
    deadline : float
        Of the work, by ``time.monotonic()``, in seconds: nobody waits for it after that.

    Raises
    ------
    TrainingError
        The loss or the result is not finite, or the deadline is over; names ``who``
        and the step.
    """
    device = device_of(model.module)
    trained = {
        name: tensor.to(device, copy=True).requires_grad_(name not in frozen)
        for name, tensor in adapter.items()
    }
    parameters = [tensor for tensor in trained.values() if tensor.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters,
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        foreach=True,
    )
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
            optimizer.zero_grad(set_to_none=True)
            value = 0.0
            for part in indices.chunk(settings.accumulate):
                batch = task.collate(take(samples, part, device))
                loss = task.losses(model(trained, batch), batch).mean()
                if len(part) < len(indices):
                    loss = loss * (len(part) / len(indices))
                value += loss.item()
                if not math.isfinite(value):
                    raise TrainingError(
                        f"{who}: the loss is {value} at step {step} of {steps}; lower "
                        f"train.learning-rate (now {settings.learning_rate:g})"
                    )
                loss.backward()
            total += value
            if proximal is not None:
                proximal(trained).backward()
            if settings.max_grad_norm:
                torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * course.factor(step - 1)
            optimizer.step()
    result = {name: tensor.detach().cpu() for name, tensor in trained.items()}
    if not all(tensor.isfinite().all() for tensor in result.values()):
        raise TrainingError(
            f"{who}: the adapter is not finite after {steps} steps; lower train.learning-rate (now "
            f"{settings.learning_rate:g})"
        )
    return result, total / max(steps, 1)


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
