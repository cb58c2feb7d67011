"""The diagnosis: which side, how sure, when to warn and when a merge is worse than no merge."""

import math

import pytest
import torch

from potara_flwr.merging.diagnosis import diagnose, difference
from potara_flwr.merging.rules import Evidence, bootstrap
from potara_flwr.merging.traces import VarianceTraces


def evidence_of(minimum, noise=0.02, barrier=0.0, n=30) -> Evidence:
    """Quadratic losses with a minimum near ``minimum``, and a barrier in between."""
    generator = torch.Generator().manual_seed(0)
    minima = minimum + noise * torch.randn(n, generator=generator, dtype=torch.float64)
    return Evidence(
        traces=VarianceTraces(4.0, 2.0, 1.0),
        fisher_federated={},
        fisher_local={},
        losses_federated=(1 - minima) ** 2,
        losses_local=minima**2,
        slopes_federated=2 * (1 - minima),
        slopes_local=-2 * minima,
        losses_at=lambda weight: (weight - minima) ** 2 + 4 * barrier * weight * (1 - weight),
        resamples=bootstrap(n, seed=0),
    )


@pytest.mark.parametrize(
    ("minimum", "favours"), [(0.1, "local"), (0.9, "federated"), (0.5, "both")]
)
def test_the_evidence_favours_the_side_of_the_minimum(minimum, favours):
    found = diagnose(evidence_of(minimum, noise=0.05), minimum)
    assert found.favours == favours
    assert found.low <= found.high
    assert found.low - 0.1 < minimum < found.high + 0.1
    assert found.warning == ""
    assert not found.worse


def test_more_noise_widens_the_interval():
    sure, unsure = (diagnose(evidence_of(0.5, noise), 0.5) for noise in (0.02, 0.5))
    assert sure.high - sure.low < 0.1 < unsure.high - unsure.low


def test_a_weight_on_the_wrong_side_is_warned_of():
    found = diagnose(evidence_of(0.1), 0.8)
    assert "λ = 0.80 leans to the federated adapter" in found.warning
    assert "lower at the local one" in found.warning
    assert found.worse
    assert found.better == "local"


def test_a_barrier_between_the_adapters_makes_the_merge_worse():
    assert not diagnose(evidence_of(0.4), 0.4).worse
    found = diagnose(evidence_of(0.4, barrier=1.0), 0.4)
    assert found.worse
    assert found.gain < 0 < found.noise
    assert "0.40" in found.words
    assert "local adapter alone" in found.words


def test_a_difference_within_its_noise_is_no_reason_to_fall_back():
    generator = torch.Generator().manual_seed(1)
    noisy = torch.randn(30, generator=generator, dtype=torch.float64)
    mean, noise = difference(noisy - noisy.mean() - 0.1)
    assert mean == pytest.approx(-0.1)
    assert noise == pytest.approx(2 * noisy.std().item() / 30**0.5)
    assert mean > -noise


def test_one_sample_knows_no_noise():
    found = diagnose(evidence_of(0.1, n=1), 0.9)
    assert math.isinf(found.noise)
    assert not found.worse
    assert found.warning == ""
