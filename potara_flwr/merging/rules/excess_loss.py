"""The paper's closed form with excess losses in place of variances: the default rule."""

from __future__ import annotations

import torch
from torch import Tensor

from potara_flwr.core.errors import EstimationError
from potara_flwr.merging.rules.base import Evidence

TEMPER = 0.3
"""q of the tempered loss: 0 is the cross-entropy itself, 1 the expected error 1 − p."""
SEEN = 1.5
"""Factor on λ where the local adapter was trained on the samples, which flatter it."""


def excess_loss(evidence: Evidence) -> float:
    """Return the mean of :func:`resampled_weights` over the resamples.

    The average over bootstrap resamples damps the noise of a few samples (bagging: Breiman, 1996),
    and their spread says how sure λ is.

    Raises
    ------
    EstimationError
        A loss or a slope is not finite.
    """
    return resampled_weights(evidence).mean().item()


def resampled_weights(evidence: Evidence, temper: float = TEMPER) -> Tensor:
    """Return the λ of :func:`minimizer` on every resample of the samples, shape (resamples,).

    Samples that the local adapter was trained on say next to nothing of what it is worth elsewhere:
    its loss and slope are about 0 there, and so are those of all merges on a plateau between the
    local adapter and one that no longer fits them. On the plateau λ is half way to where a
    parabola with the federated adapter's loss and slope would touch zero,
    1/2 − L(1)/L'(1) of 1 − 2 L(1)/L'(1); :data:`SEEN` times it is three quarters of the way, nearer
    to what all clients share. Where local training has not come to its end, the loss falls up to
    the local adapter, and λ stays 0.

    Raises
    ------
    EstimationError
        A loss or a slope is not finite.
    """
    numbers = torch.stack(
        [
            tempered(evidence.losses_federated, temper),
            tempered(evidence.losses_local, temper),
            tempered_slopes(evidence.losses_federated, evidence.slopes_federated, temper),
            tempered_slopes(evidence.losses_local, evidence.slopes_local, temper),
        ]
    )
    if not numbers.isfinite().all():
        raise EstimationError("a loss or a slope at one of the adapters is not finite")
    a, b, da, db = (evidence.resamples @ numbers.T).T
    return minimizer(a, b, da, db, factor=SEEN if evidence.seen else 1.0)


def minimizer(
    loss_federated: Tensor,
    loss_local: Tensor,
    slope_federated: Tensor,
    slope_local: Tensor,
    factor: float = 1.0,
) -> Tensor:
    """Return λ = (b − c) / (a + b − 2c) for excess losses a, b, c, elementwise, in [0, 1], times a
    factor.

    Where the loss is quadratic between the adapters, its excess over the optimum is
    λ²a + (1 − λ)²b + 2λ(1 − λ)c with a and b the adapters' own: the paper's closed form
    (arXiv 2602.18658), with mean squared error in the curvature's metric where the paper has a
    variance. The optimum itself cancels: a − b = L(1) − L(0) and a + b − 2c = (L'(1) − L'(0)) / 2,
    so λ = 1/2 − (L(1) − L(0)) / (L'(1) − L'(0)).

    Where the loss is not convex between the adapters, the better one has all the weight; where
    they do not differ at all, λ = 1/2.
    """
    rise, turn = loss_federated - loss_local, slope_federated - slope_local
    inside = factor * (0.5 - rise / turn.where(turn > 0, torch.ones_like(turn)))
    return inside.clamp(0.0, 1.0).where(turn > 0, 0.5 - 0.5 * rise.sign())


def tempered(losses: Tensor, temper: float = TEMPER) -> Tensor:
    """Return (1 − e^{−qℓ}) / q of each loss; for a cross-entropy ℓ = −log p it is (1 − p^q) / q.

    It is bounded by 1/q, so that a few samples on which a model is sure and wrong do not decide,
    and nearer to the error rate than the cross-entropy is (generalized cross-entropy: Zhang and
    Sabuncu, 2018, arXiv 1805.07836).
    """
    return -torch.expm1(-temper * losses) / temper if temper else losses


def tempered_slopes(losses: Tensor, slopes: Tensor, temper: float = TEMPER) -> Tensor:
    """Return the slopes of the tempered losses, e^{−qℓ} dℓ/dλ."""
    return (-temper * losses).exp() * slopes
