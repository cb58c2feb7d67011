"""The minimum of the quartic through what is known of the loss along the segment."""

import math

import numpy as np

from potara_flwr.core.errors import EstimationError
from potara_flwr.merging.rules.base import Evidence


def segment(evidence: Evidence) -> float:
    """Return the minimizer on [0, 1] of the quartic with the losses and slopes of both ends and
    the loss at λ = 1/2.

    Loss and slope at the ends come with the gradient pass; the middle costs one forward pass.

    Raises
    ------
    EstimationError
        A loss or a slope is not finite.
    """
    coefficients = quartic(
        evidence.losses_local.mean().item(),
        evidence.losses_at(0.5).mean().item(),
        evidence.losses_federated.mean().item(),
        evidence.slopes_local.mean().item(),
        evidence.slopes_federated.mean().item(),
    )
    if not all(math.isfinite(value) for value in coefficients):
        raise EstimationError(
            "a loss or slope along the segment between the adapters is not finite"
        )
    polynomial = np.polynomial.Polynomial(coefficients)
    roots = [complex(root) for root in polynomial.deriv().roots()]
    inside = [root.real for root in roots if abs(root.imag) < 1e-9 and 0 < root.real < 1]
    return min([0.0, 1.0, *inside], key=lambda weight: float(polynomial(weight)))


def quartic(
    loss_0: float, loss_half: float, loss_1: float, slope_0: float, slope_1: float
) -> list[float]:
    """Return c_0 … c_4 of the quartic Σ c_k λ^k with the given values and end slopes on [0, 1]."""
    rise = loss_1 - loss_0 - slope_0
    turn = slope_1 - slope_0
    middle = loss_half - loss_0 - slope_0 / 2
    c4 = 16 * middle - 8 * rise + 2 * turn
    return [loss_0, slope_0, 3 * rise - turn + c4, turn - 2 * rise - 2 * c4, c4]
