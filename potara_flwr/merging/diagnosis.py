"""How far the calibration samples bear a client's mixing weight out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from potara_flwr.merging.rules import Evidence
from potara_flwr.merging.rules.excess_loss import resampled_weights, tempered
from potara_flwr.merging.segment import Weight, mean_weight

COVERAGE = 0.9
"""Share of the resamples whose λ lies in the interval."""
STANDARD_ERRORS = 2.0
"""A difference of mean losses that is larger than this many standard errors is no noise."""


@dataclass(frozen=True)
class Diagnosis:
    """What the calibration samples say of the two adapters, and of the chosen merge.

    Losses are tempered (:func:`~potara_flwr.merging.rules.excess_loss.tempered`), differences are
    paired: both adapters see the same samples.
    """

    favours: Literal["federated", "local", "both"]
    """The adapter on whose side the whole interval lies."""
    low: float
    high: float
    """Interval of the excess-loss λ: the middle 90 % over the resamples."""
    better: Literal["federated", "local"]
    """The single adapter with the lower mean loss."""
    gain: float
    """Mean loss of the better single adapter minus that of the chosen merge."""
    noise: float
    """Two standard errors of ``gain``."""
    warning: str
    """Where λ and the losses disagree, in words; else empty."""
    words: str
    """The gain in words."""

    @property
    def worse(self) -> bool:
        """Whether the merge is worse than the better single adapter by more than noise."""
        return self.gain < -self.noise


def diagnose(evidence: Evidence, chosen: Weight) -> Diagnosis:
    """Hold a mixing weight against the calibration samples; costs one forward pass.

    Raises
    ------
    EstimationError
        A loss or a slope is not finite.
    """
    weights = resampled_weights(evidence)
    tail = (1 - COVERAGE) / 2
    low, high = (weights.quantile(share).item() for share in (tail, 1 - tail))
    federated, local = tempered(evidence.losses_federated), tempered(evidence.losses_local)
    better: Literal["federated", "local"] = (
        "federated" if federated.mean() < local.mean() else "local"
    )
    merged = tempered(evidence.losses_at(chosen))
    gain, noise = difference((federated if better == "federated" else local) - merged)
    weight = mean_weight(chosen)
    lead, lead_noise = difference(federated - local)
    warning = ""  # of samples that were trained on, the loss favours the local adapter anyway
    leans = "federated" if weight > 0.5 else "local"
    if not evidence.seen and weight != 0.5 and leans != better and abs(lead) > lead_noise:
        warning = (
            f"λ = {weight:.2f} leans to the {leans} adapter, but the calibration loss is lower at "
            f"the {better} one by {abs(lead):.3f} ± {lead_noise:.3f}"
        )
    return Diagnosis(
        favours="federated" if low > 0.5 else "local" if high < 0.5 else "both",
        low=low,
        high=high,
        better=better,
        gain=gain,
        noise=noise,
        warning=warning,
        words=f"the merge at λ = {weight:.2f} has a calibration loss above that of the {better} "
        f"adapter alone by {-gain:.3f} ± {noise:.3f}",
    )


def difference(differences: Tensor) -> tuple[float, float]:
    """Return the mean of paired differences, shape (n,), and two standard errors of it.

    One sample says nothing of the noise, which is then infinite.
    """
    n = len(differences)
    if n < 2:
        return differences.mean().item(), math.inf
    return differences.mean().item(), STANDARD_ERRORS * (torch.std(differences) / n**0.5).item()
