"""What a merge rule sees, and what it gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from potara_flwr.core.seeds import derive_seed
from potara_flwr.merging.segment import Weight
from potara_flwr.merging.traces import VarianceTraces


@dataclass(frozen=True)
class Evidence:
    """What one client's calibration samples tell about its two adapters, from one gradient pass
    at each. λ = 1 is the federated adapter, λ = 0 the local one.
    """

    traces: VarianceTraces
    fisher_federated: dict[str, Tensor]
    """Damped diagonal Fisher of the federated adapter's factors, float64."""
    fisher_local: dict[str, Tensor]
    """The same of the local adapter."""
    losses_federated: Tensor
    """Loss of each sample at λ = 1, shape (n,), float64."""
    losses_local: Tensor
    """Loss of each sample at λ = 0, shape (n,), float64."""
    slopes_federated: Tensor
    """dℓ/dλ of each sample at λ = 1, shape (n,), float64."""
    slopes_local: Tensor
    """dℓ/dλ of each sample at λ = 0, shape (n,), float64."""
    losses_at: Callable[[Weight], Tensor]
    """Loss of each sample at any λ, shape (n,), float64: one more forward pass."""
    resamples: Tensor
    """Bootstrap resamples as sample weights, shape (resamples, n), float64; each sums to 1."""
    seen: bool = False
    """Whether the local adapter was trained on the samples."""
    batched: bool = True
    """Whether the gradients are of one pass over several samples, or of a pass for each."""


NUM_RESAMPLES = 200


def bootstrap(num_samples: int, seed: int) -> Tensor:
    """Draw bootstrap resamples of n samples, as weights of shape (NUM_RESAMPLES, n)."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "resamples"))
    drawn = torch.randint(num_samples, (NUM_RESAMPLES, num_samples), generator=generator)
    counts = torch.zeros(NUM_RESAMPLES, num_samples, dtype=torch.float64)
    return counts.scatter_add_(1, drawn, torch.ones_like(counts)) / num_samples


Rule = Callable[[Evidence], Weight]
"""A merge rule: evidence → the mixing weight."""
