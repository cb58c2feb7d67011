"""What a client computes on two devices: how far the numbers are apart, and may be."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from potara_flwr.core.stopwatch import Stopwatch
from potara_flwr.merging.segment import mean_weight, segment_between
from potara_flwr.methods import METHODS, Client
from potara_flwr.methods.potara import merge, weigh
from potara_flwr.models.adapter import Adapter
from potara_flwr.settings.schema import Settings
from potara_flwr.tasks.workbench import Workbench
from potara_flwr.training.gradients import per_sample_gradients
from simulations.bench.one_phase import moved

# Without it cuBLAS has a workspace for each stream, and may sum in another order every time. It is
# read when the GPU is first used.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

STEPS = 8
TOLERANCES = {
    "losses": 1e-5,
    "gradients": 1e-4,
    "traces": 1e-4,
    "λ": 1e-3,
    "merge": 1e-3,
    "training loss": 1e-4,
    "trained adapter": 1e-2,
}
"""What is compared → how far apart it may be in float32.

Devices sum in different orders. Other kernels of a CPU for the same sums (no oneDNN, or another
attention) move losses by 3e-7, gradients by 7e-7, λ by 1e-7 and a trained adapter by 2e-6 of the
way it has gone; a GPU's differ more, and are left thirty times that or more. TF32, which rounds to
1e-3, is beyond it. λ may depend on which of two losses is the lower, and AdamW divides a gradient
by its own size, so that one of nearly zero may step either way: both have wider bounds.
"""


@contextmanager
def exact() -> Iterator[None]:
    """Compute float32 in float32, and sum in one order where there is an algorithm that does.

    By default convolutions round their inputs to TF32, which has ten bits.
    """
    matmul, sums = torch.backends.cuda.matmul, torch.are_deterministic_algorithms_enabled()
    rounded = matmul.allow_tf32
    try:
        matmul.allow_tf32 = False
        torch.use_deterministic_algorithms(True, warn_only=True)
        with torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=False
        ):
            yield
    finally:
        matmul.allow_tf32 = rounded
        torch.use_deterministic_algorithms(sums)


def client_on(settings: Settings, device: torch.device, number: int = 0) -> Client:
    """Return a client with a base model of its own on a device."""
    model = settings.model.model_copy(update={"device": str(device)})
    settings = settings.model_copy(update={"model": model})
    bench = Workbench(settings)
    return METHODS[settings.method].client(bench, bench.client(number))


def train(client: Client) -> tuple[Adapter, float]:
    """Take some optimizer steps from an adapter away from the initial one; also return the loss."""
    return client.train(moved(client, 0), steps=STEPS, purpose=("parity",), when="in the bench")


def way_of(client: Client) -> tuple[Tensor, float]:
    """Return how far :func:`train` goes, as :func:`flat` has it, and the loss."""
    trained, loss = train(client)
    return flat(trained) - flat(moved(client, 0)), loss


@dataclass(frozen=True)
class Work:
    """What a client computes of two adapters that are the same on every device, and the adapter
    that it trains from one of them; on the CPU.
    """

    losses: Tensor
    """Of the calibration samples at the one adapter, shape (n,)."""
    gradients: Tensor
    """Of these losses, all tensors' in one, shape (n · parameters,)."""
    traces: Tensor
    """a, b and c, shape (3,)."""
    weights: Tensor
    """λ of every rule."""
    merge: Tensor
    training_loss: Tensor
    way: Tensor
    """From where training starts to where it ends."""


def work_of(client: Client) -> Work:
    """Have a client do all that it does."""
    federated, local = moved(client, 0), moved(client, 1)
    samples, size = client.data.calibration, client.settings.train.batch_size
    found = per_sample_gradients(client.model, client.task, federated, samples, size)
    segment = segment_between(federated, local, client.settings.merge.space)
    weighed = weigh(client, segment, Stopwatch())
    merged, _ = merge(segment, weighed.choice.weight, client.settings)
    way, loss = way_of(client)
    traces = weighed.evidence.traces
    return Work(
        losses=found.losses,
        gradients=flat(found.gradients),
        traces=torch.tensor([traces.federated, traces.local, traces.cross]),
        weights=torch.tensor([mean_weight(weight) for weight in weighed.weights.values()]),
        merge=flat(merged),
        training_loss=torch.tensor(loss),
        way=way,
    )


def flat(tensors: Adapter) -> Tensor:
    """Return all numbers of an adapter in one tensor."""
    return torch.cat([tensor.flatten() for tensor in tensors.values()])


def distance(found: Tensor, right: Tensor) -> float:
    """Return how far a tensor is from the right one, over the norm of that."""
    return float((found.double() - right.double()).norm() / right.double().norm())


def differences(found: Work, right: Work) -> dict[str, float]:
    """Return how far the numbers are apart, by the names of :data:`TOLERANCES`: relative, and for
    λ the largest difference.
    """
    return {
        "losses": distance(found.losses, right.losses),
        "gradients": distance(found.gradients, right.gradients),
        "traces": distance(found.traces, right.traces),
        "λ": float((found.weights - right.weights).abs().max()),
        "merge": distance(found.merge, right.merge),
        "training loss": distance(found.training_loss, right.training_loss),
        "trained adapter": distance(found.way, right.way),
    }
