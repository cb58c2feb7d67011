"""ε and δ against numbers of others, against integration, and at the ends."""

import math

import pytest
from scipy import integrate, special, stats

from potara_flwr.server.privacy import delta_of, epsilon_of, scaled_erfc, spent
from potara_flwr.settings.groups import PrivacySettings


def integrated_delta(epsilon: float, noise_multiplier: float, releases: int) -> float:
    """∫ max(0, p − e^ε q) over the sum of ``releases`` observations, p about 1 and q about 0."""
    mu = math.sqrt(releases) / noise_multiplier
    start = epsilon / mu + mu / 2  # where p = e^ε q

    def excess(x: float) -> float:
        return stats.norm.pdf(x - mu) - math.exp(epsilon) * stats.norm.pdf(x)

    return integrate.quad(excess, start, start + 40, epsabs=1e-14)[0]


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 1.0, 4.0, 20.0])
@pytest.mark.parametrize(("noise", "releases"), [(0.5, 1), (1.0, 1), (4.0, 20), (1.0, 20)])
def test_delta_is_the_integral_of_the_excess(epsilon, noise, releases):
    expected = integrated_delta(epsilon, noise, releases)
    assert delta_of(epsilon, noise, releases) == pytest.approx(expected, rel=1e-6, abs=1e-13)


def test_one_round_of_unit_noise_has_the_known_epsilon():
    # The analytic Gaussian mechanism at σ = Δ, δ = 1e-5 (arXiv 1805.06530): below the classical
    # √(2 ln(1.25/δ)) = 4.84 of its Theorem 1, which holds for ε < 1 only.
    assert epsilon_of(1.0, 1, 1e-5) == pytest.approx(4.3772, abs=1e-4)
    assert epsilon_of(1.0, 1, 1e-5) < math.sqrt(2 * math.log(1.25 / 1e-5))


@pytest.mark.parametrize("noise", [1e-3, 0.1, 1.0, 30.0])
@pytest.mark.parametrize("releases", [1, 20, 1000])
@pytest.mark.parametrize("delta", [1e-12, 1e-5, 0.1])
def test_epsilon_is_the_least_that_has_the_delta(noise, releases, delta):
    epsilon = epsilon_of(noise, releases, delta)
    assert math.isfinite(epsilon)
    assert delta_of(epsilon, noise, releases) <= delta
    if epsilon > 0:
        assert delta_of(epsilon * (1 - 1e-6), noise, releases) > delta


def test_rounds_compose_as_less_noise_does():
    assert epsilon_of(4.0, 16, 1e-5) == pytest.approx(epsilon_of(1.0, 1, 1e-5))
    assert epsilon_of(4.0, 17, 1e-5) > epsilon_of(4.0, 16, 1e-5)


def test_no_round_tells_nothing_and_no_noise_tells_all():
    assert epsilon_of(1.0, 0, 1e-5) == 0.0
    assert epsilon_of(0.0, 1, 1e-5) == math.inf
    assert epsilon_of(1e6, 1, 0.1) == 0.0


@pytest.mark.parametrize("x", [0.0, 0.3, 5.0, 19.99, 20.0, 25.0, 1e4])
def test_the_scaled_erfc_equals_scipys(x):
    assert scaled_erfc(x) == pytest.approx(special.erfcx(x), rel=1e-9)


def test_a_run_has_spent_what_it_has_of_the_client_that_was_asked_most():
    privacy = PrivacySettings(clipping_norm=2.0, noise_multiplier=3.0, delta=1e-4)
    entry = spent(privacy, [[0, 1], [1, 2], [1, 3]]).to_json()
    assert entry == {
        "clipping_norm": 2.0,
        "noise_multiplier": 3.0,
        "noise": "secret",
        "releases": 3,
        "delta": 1e-4,
        "epsilon": epsilon_of(3.0, 3, 1e-4),
    }
    assert spent(privacy, [[0, 1], [1, 2]], interruptions=1).to_json() == entry
    assert spent(privacy, []).epsilon == 0.0
    assert spent(PrivacySettings(clipping_norm=2.0), [[0]]).epsilon is None
