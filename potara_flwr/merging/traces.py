"""Per-sample gradients → diagonal empirical Fisher → variance traces.

After the last round each client estimates, from its own calibration samples, the traces of the
joint covariance of its federated and its local adapter (arXiv 2602.18658).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

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

    def __add__(self, other: VarianceTraces) -> VarianceTraces:
        """Return the traces of two sets of coordinates together."""
        a, b = self.federated + other.federated, self.local + other.local
        return VarianceTraces(a, b, min(self.cross + other.cross, a, b))


class GradientMoments:
    """Means, variances and covariance, coordinate by coordinate, of the gradients that the same
    samples have at the federated and the local adapter.

    Samples are added some at a time and need not be kept: five numbers a coordinate are. Variances
    are taken about the mean and joined batch by batch (Chan, Golub and LeVeque, 1983), which loses
    no digits where a mean is large.
    """

    def __init__(self) -> None:
        self.num_samples = 0
        self._sums: dict[str, Tensor] = {}
        """Tensor name → both means, then both sums of squares and the sum of products of what
        differs from them; (5, *shape of the tensor), float64."""

    def add(self, federated: SampleGradients, local: SampleGradients) -> None:
        """Add some samples, by their gradients at both adapters."""
        before, new = self.num_samples, len(next(iter(federated.values())))
        self.num_samples = before + new
        share = before * new / self.num_samples
        for name in federated:
            g_f, g_l = federated[name].double(), local[name].double()
            mean_f, mean_l = g_f.mean(0), g_l.mean(0)
            g_f, g_l = g_f - mean_f, g_l - mean_l
            if name not in self._sums:
                self._sums[name] = g_f.new_zeros(5, *mean_f.shape)
            sums = self._sums[name]
            mean_f -= sums[0]
            mean_l -= sums[1]
            sums[2] += g_f.square().sum(0) + share * mean_f.square()
            sums[3] += g_l.square().sum(0) + share * mean_l.square()
            sums[4] += (g_f * g_l).sum(0) + share * mean_f * mean_l
            sums[0] += mean_f * (new / self.num_samples)
            sums[1] += mean_l * (new / self.num_samples)

    def fisher(self, end: Literal["federated", "local"]) -> dict[str, Tensor]:
        """Return an adapter's diagonal empirical Fisher F = mean over samples of g², float64."""
        at = 0 if end == "federated" else 1
        return {name: self._fisher(name, at) for name in self._sums}

    def _fisher(self, name: str, at: int) -> Tensor:
        sums = self._sums[name]
        return sums[2 + at] / self.num_samples + sums[at].square()

    def correlation(self, name: str) -> Tensor:
        """Return the Pearson correlation ρ over the samples of a tensor's coordinates; 0 where a
        gradient does not vary.
        """
        _, _, squares_f, squares_l, products = self._sums[name]
        scale = (squares_f * squares_l).sqrt()
        return torch.where(scale > 0, products / scale, torch.zeros_like(scale))

    def traces(self, damping: float) -> VarianceTraces:
        """Estimate a, b and c.

        Per coordinate j: Σ_j = 1 / (F_j + δ), and Σ_fl,j = ρ_j √(Σ_f,j Σ_l,j), clipped to
        [0, min(Σ_f,j, Σ_l,j)], which makes 0 ≤ c ≤ min(a, b).

        Raises
        ------
        EstimationError
            A trace is not finite; names the adapter.
        """
        a = b = c = 0.0
        for name in self._sums:
            sigma_f, sigma_l = (1 / (self._fisher(name, at) + damping) for at in (0, 1))
            cross = self.correlation(name) * (sigma_f * sigma_l).sqrt()
            cross = cross.clamp(min=0).minimum(sigma_f).minimum(sigma_l)
            a += sigma_f.sum().item()
            b += sigma_l.sum().item()
            c += cross.sum().item()
        for adapter, trace in (("federated", a), ("local", b)):
            if not math.isfinite(trace):
                raise EstimationError(f"the variance trace of the {adapter} adapter is {trace}")
        return VarianceTraces(a, b, min(c, a, b))


def damped(fisher: Mapping[str, Tensor], damping: float) -> dict[str, Tensor]:
    """Return F + δ. Without it a coordinate that has no gradient would decide a trace alone."""
    return {name: tensor + damping for name, tensor in fisher.items()}


def variance_traces(
    federated: SampleGradients, local: SampleGradients, damping: float
) -> VarianceTraces:
    """Estimate the traces from all samples' gradients at both adapters (:class:`GradientMoments`).

    Raises
    ------
    EstimationError
        A trace is not finite; names the adapter.
    """
    moments = GradientMoments()
    moments.add(federated, local)
    return moments.traces(damping)
