"""Per-sample gradients → diagonal empirical Fisher → variance traces.

After the last round each client estimates, from its own calibration samples, the traces of the
joint covariance of its federated and its local adapter (arXiv 2602.18658).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from potara_flwr.adapters import Adapter, LoraModel, device_of
from potara_flwr.errors import EstimationError
from potara_flwr.tasks.base import Samples, Task, num_samples, take

SampleGradients = dict[str, Tensor]
"""Adapter tensor name → the gradient of each sample's loss, shape (n, *shape of the tensor)."""


@dataclass(frozen=True)
class GradientPass:
    """What one forward and backward pass over the calibration samples tells about an adapter."""

    losses: Tensor
    """Loss of each sample, shape (n,), in the loss's unit."""
    gradients: SampleGradients


@dataclass(frozen=True)
class VarianceTraces:
    """The traces of the joint covariance: a = tr Σ_f, b = tr Σ_l, c = tr Σ_fl."""

    federated: float
    local: float
    cross: float

    def bound(self, weight: float) -> float:
        """Return tr Cov(θ_p) of the merge at mixing weight λ: λ²a + (1 − λ)²b + 2λ(1 − λ)c."""
        return (
            weight**2 * self.federated
            + (1 - weight) ** 2 * self.local
            + 2 * weight * (1 - weight) * self.cross
        )

    def best_weight(self) -> float:
        """Return the mixing weight that minimizes :meth:`bound`: λ* = (b − c) / (a + b − 2c).

        For 0 ≤ c ≤ min(a, b) it lies in [0, 1]. Where a + b − 2c vanishes the bound is the same for
        every λ (the adapters agree), and λ* = 1/2.
        """
        a, b, c = self.federated, self.local, self.cross
        denominator = (a - c) + (b - c)
        if denominator <= 1e-12 * (a + b):
            return 0.5
        return min(max((b - c) / denominator, 0.0), 1.0)


def per_sample_gradients(
    model: LoraModel, task: Task, adapter: Adapter, samples: Samples, batch_size: int = 0
) -> GradientPass:
    """Compute every sample's gradient of its own loss, ``batch_size`` samples at once (0: all).

    Raises
    ------
    EstimationError
        A trained module is not linear, or does not keep the samples in its first dimension.
    """
    n = num_samples(samples)
    size = batch_size or n
    passes = [
        _gradient_pass(model, task, adapter, take(samples, slice(start, start + size)))
        for start in range(0, n, size)
    ]
    if len(passes) == 1:
        return passes[0]
    return GradientPass(
        torch.cat([one.losses for one in passes]),
        {name: torch.cat([one.gradients[name] for one in passes]) for name in adapter},
    )


def _gradient_pass(
    model: LoraModel, task: Task, adapter: Adapter, samples: Samples
) -> GradientPass:
    """Compute every sample's gradient of its own loss in one forward and one backward pass.

    The trained tensors of an adapter are weights and biases of linear modules. With x the input
    and δ the gradient at the output of such a module, both (n, tokens, features), sample i's
    gradients are Σ_t δ_it x_itᵀ for the weight and Σ_t δ_it for the bias, so the backward pass only
    has to reach the outputs (Goodfellow, 2015, arXiv 1510.01799). Where a sample has k rows, the
    tokens of all of them are its tokens.
    """
    device = device_of(model.module)
    samples = task.collate(take(samples, slice(None), device))
    leaves = {name: tensor.detach().to(device).requires_grad_() for name, tensor in adapter.items()}
    owners = {model.parameters[name].rpartition(".")[0] for name in leaves}
    calls: list[tuple[str, Tensor, Tensor]] = []
    handles = []
    for owner in sorted(owners):
        module = model.module.get_submodule(owner)
        if not isinstance(module, nn.Linear):
            raise EstimationError(
                f"per-sample gradients need linear modules; {owner} is a {type(module).__name__}"
            )

        def record(_: nn.Module, args: tuple[Tensor], output: Tensor, owner: str = owner) -> None:
            calls.append((owner, args[0].detach(), output))

        handles.append(module.register_forward_hook(record))
    try:
        losses = task.losses(model(leaves, samples), samples)
    finally:
        for handle in handles:
            handle.remove()
    deltas = torch.autograd.grad(losses.sum(), [output for _, _, output in calls])

    n = num_samples(samples)
    rows = next(
        len(at) for name, at in samples.items() if at.ndim and not name.startswith("labels")
    )
    names = {parameter: name for name, parameter in model.parameters.items() if name in leaves}
    gradients: SampleGradients = {}
    for (owner, inputs, _), delta in zip(calls, deltas, strict=True):
        if inputs.shape[0] != rows:
            raise EstimationError(f"{owner} mixes the samples: its input is {tuple(inputs.shape)}")
        # (k · n, …, features) → (n, k · tokens, features); without tokens, one.
        inputs = inputs.reshape(n, -1, inputs.shape[-1])
        delta = delta.reshape(n, -1, delta.shape[-1])
        if name := names.get(f"{owner}.weight"):
            gradient = torch.einsum("nto,nti->noi", delta, inputs)
            gradients[name] = gradients[name] + gradient if name in gradients else gradient
        if name := names.get(f"{owner}.bias"):
            gradient = delta.sum(1)
            gradients[name] = gradients[name] + gradient if name in gradients else gradient
    return GradientPass(losses.detach().cpu(), {name: gradients[name].cpu() for name in adapter})


def diagonal_fisher(gradients: SampleGradients) -> dict[str, Tensor]:
    """Return the diagonal empirical Fisher F = mean over samples of g², float64, (*shape)."""
    return {name: gradient.double().square().mean(0) for name, gradient in gradients.items()}


def damped(fisher: Mapping[str, Tensor], damping: float) -> dict[str, Tensor]:
    """Return F + δ. Without it a coordinate that has no gradient would decide a trace alone."""
    return {name: tensor + damping for name, tensor in fisher.items()}


def variance_traces(
    federated: SampleGradients, local: SampleGradients, damping: float
) -> VarianceTraces:
    """Estimate a, b and c from the per-sample gradients at both adapters, on the same samples.

    Per coordinate j: Σ_j = 1 / (F_j + δ), and Σ_fl,j = ρ_j √(Σ_f,j Σ_l,j) with ρ_j the Pearson
    correlation of the two gradients' j-th entries over the samples (0 where one of them does not
    vary), clipped to [0, min(Σ_f,j, Σ_l,j)], which makes 0 ≤ c ≤ min(a, b).

    Raises
    ------
    EstimationError
        A trace is not finite; names the adapter.
    """
    a = b = c = 0.0
    for name in federated:
        g_f, g_l = federated[name].double(), local[name].double()
        sigma_f = 1 / (g_f.square().mean(0) + damping)
        sigma_l = 1 / (g_l.square().mean(0) + damping)
        cross = correlation(g_f, g_l) * (sigma_f * sigma_l).sqrt()
        cross = cross.clamp(min=0).minimum(sigma_f).minimum(sigma_l)
        a += sigma_f.sum().item()
        b += sigma_l.sum().item()
        c += cross.sum().item()
    for adapter, trace in (("federated", a), ("local", b)):
        if not math.isfinite(trace):
            raise EstimationError(f"the variance trace of the {adapter} adapter is {trace}")
    return VarianceTraces(a, b, min(c, a, b))


def correlation(x: Tensor, y: Tensor) -> Tensor:
    """Return the Pearson correlation over the first dimension; 0 where x or y does not vary."""
    x, y = x - x.mean(0), y - y.mean(0)
    scale = (x.square().sum(0) * y.square().sum(0)).sqrt()
    return torch.where(scale > 0, (x * y).sum(0) / scale, torch.zeros_like(scale))
