"""What a merge rule sees, and what it gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from potara_flwr.fisher import VarianceTraces
from potara_flwr.merging import Weight


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
    loss_federated: float
    """Mean loss at λ = 1."""
    loss_local: float
    """Mean loss at λ = 0."""
    slope_federated: float
    """dL/dλ at λ = 1."""
    slope_local: float
    """dL/dλ at λ = 0."""
    loss_at: Callable[[float], float]
    """Mean loss of the merge at a λ between the ends: one more forward pass."""


Rule = Callable[[Evidence], Weight]
"""A merge rule: evidence → the mixing weight."""
