"""Per-sample gradients → diagonal empirical Fisher → variance traces.

After the last round each client estimates, from its own calibration samples, the traces of the
joint covariance of its federated and its local adapter (arXiv 2602.18658).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from potara_flwr.core.errors import EstimationError
from potara_flwr.models.adapter import SampleGradients


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
