"""Every rule on evidence whose answer is known."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from potara_flwr.core.errors import EstimationError
from potara_flwr.merging.rules import RULES, Evidence, bootstrap
from potara_flwr.merging.rules.excess_loss import (
    TEMPER,
    minimizer,
    resampled_weights,
    tempered,
    tempered_slopes,
)
from potara_flwr.merging.rules.segment import quartic
from potara_flwr.merging.traces import VarianceTraces

number = st.floats(-10, 10)


def evidence_of(loss, slope, seen=False) -> Evidence:
    """Evidence of one sample, whose loss is a known function of λ."""

    def vector(value):
        return torch.tensor([value], dtype=torch.float64)

    return Evidence(
        traces=VarianceTraces(4.0, 2.0, 1.0),
        fisher_federated={"w": torch.tensor([3.0, 1.0])},
        fisher_local={"w": torch.tensor([1.0, 1.0])},
        losses_federated=vector(loss(1.0)),
        losses_local=vector(loss(0.0)),
        slopes_federated=vector(slope(1.0)),
        slopes_local=vector(slope(0.0)),
        losses_at=lambda weight: vector(loss(weight)),
        resamples=torch.ones(3, 1, dtype=torch.float64),
        seen=seen,
    )


def parabola(minimum):
    return evidence_of(lambda x: (x - minimum) ** 2 + 1, lambda x: 2 * (x - minimum))


def test_variance_trace_is_the_papers_closed_form():
    assert RULES["variance-trace"](parabola(0.9)) == pytest.approx(0.25)


@pytest.mark.parametrize("edge", [0.0, 0.2, 0.6, 1.0])
def test_on_samples_that_were_trained_on_excess_loss_keeps_to_the_plateau(edge):
    """All merges up to the edge fit them; three quarters of the way there, whatever the height."""
    wall = evidence_of(
        lambda x: 0.01 * max(0.0, x - edge) ** 2, lambda x: 0.02 * max(0.0, x - edge), seen=True
    )
    if edge < 1.0:
        assert RULES["excess-loss"](wall) == pytest.approx(0.75 * edge, abs=1e-3)
    falling = evidence_of(lambda x: x**2 + edge * x, lambda x: 2 * x + edge, seen=True)
    assert RULES["excess-loss"](falling) == 0.0


def test_uniform_is_one_half():
    assert RULES["uniform"](parabola(0.9)) == 0.5


def test_fisher_weighs_each_coordinate():
    weight = RULES["fisher"](parabola(0.9))
    torch.testing.assert_close(weight["w"], torch.tensor([0.75, 0.5]))


@pytest.mark.parametrize("minimum", [-1.0, 0.0, 0.13, 0.5, 0.77, 1.0, 3.0])
def test_segment_finds_the_minimum_of_a_parabola(minimum):
    expected = min(max(minimum, 0.0), 1.0)
    assert RULES["segment"](parabola(minimum)) == pytest.approx(expected, abs=1e-6)


@given(number, number, number, number, number)
def test_quartic_goes_through_what_is_known(loss_0, loss_half, loss_1, slope_0, slope_1):
    polynomial = np.polynomial.Polynomial(quartic(loss_0, loss_half, loss_1, slope_0, slope_1))
    tangent = polynomial.deriv()
    got = [polynomial(0), polynomial(0.5), polynomial(1), tangent(0), tangent(1)]
    assert got == pytest.approx([loss_0, loss_half, loss_1, slope_0, slope_1], abs=1e-8)


@given(number, number, number, number, number)
def test_segment_minimizes_its_quartic_on_the_unit_interval(
    loss_0, loss_half, loss_1, slope_0, slope_1
):
    polynomial = np.polynomial.Polynomial(quartic(loss_0, loss_half, loss_1, slope_0, slope_1))
    values = {0.0: loss_0, 0.5: loss_half, 1.0: loss_1}
    slopes = {0.0: slope_0, 1.0: slope_1}
    weight = RULES["segment"](evidence_of(values.__getitem__, slopes.__getitem__))
    assert 0.0 <= weight <= 1.0
    assert polynomial(weight) <= polynomial(np.linspace(0, 1, 501)).min() + 1e-7


def test_segment_refuses_a_loss_that_is_not_finite():
    with pytest.raises(EstimationError, match="not finite"):
        RULES["segment"](evidence_of(lambda x: float("inf"), lambda x: 0.0))


@given(st.floats(-0.5, 1.5))
def test_grid_takes_the_nearest_point(minimum):
    nearest = round(min(max(minimum, 0.0), 1.0), 1)
    distance = abs(min(max(minimum, 0.0), 1.0) - nearest)
    assume(abs(distance - 0.05) > 1e-6)
    assert RULES["grid"](parabola(minimum)) == pytest.approx(nearest)


def test_grid_asks_only_for_the_points_it_does_not_know():
    asked = []
    evidence = evidence_of(lambda x: (x - 0.4) ** 2, lambda x: 0.0)
    counting = Evidence(
        **{
            **vars(evidence),
            "losses_at": lambda x: asked.append(x) or torch.tensor([(x - 0.4) ** 2]),
        }
    )
    RULES["grid"](counting)
    assert len(asked) == 9
    assert 0.0 not in asked
    assert 1.0 not in asked


def tensors(*values):
    return [torch.tensor(value, dtype=torch.float64) for value in values]


@given(st.floats(-1, 2), st.floats(0.1, 10), st.floats(-5, 5))
def test_excess_loss_finds_the_minimum_of_a_parabola(minimum, curvature, offset):
    losses = [curvature * (end - minimum) ** 2 + offset for end in (1, 0)]
    slopes = [2 * curvature * (end - minimum) for end in (1, 0)]
    weight = minimizer(*tensors(*losses, *slopes)).item()
    assert weight == pytest.approx(min(max(minimum, 0.0), 1.0), abs=1e-6)


@given(number, number, st.floats(0.1, 10))
def test_excess_loss_is_the_papers_closed_form_of_its_own_a_b_c(a, b, convexity):
    # Any quadratic with excess losses a, b at the ends and a + b − 2c > 0.
    c = (a + b - convexity) / 2
    slopes = 2 * (a - c), 2 * (c - b)
    expected = min(max((b - c) / (a + b - 2 * c), 0.0), 1.0)
    assert minimizer(*tensors(a, b, *slopes)).item() == pytest.approx(expected, abs=1e-6)


@given(number, number, number, number)
def test_excess_loss_lies_between_the_adapters_and_takes_the_better_where_concave(
    loss_f, loss_l, slope_f, slope_l
):
    weight = minimizer(*tensors(loss_f, loss_l, slope_f, slope_l)).item()
    assert 0.0 <= weight <= 1.0
    if slope_f <= slope_l:
        assert weight == (1.0 if loss_f < loss_l else 0.0 if loss_l < loss_f else 0.5)


@given(st.floats(0.01, 20), st.floats(-3, 3), st.just(0.0) | st.floats(1e-3, 1))
def test_tempered_slopes_are_the_derivatives_of_tempered_losses(loss, slope, temper):
    loss, slope = torch.tensor(loss, dtype=torch.float64, requires_grad=True), slope
    (derivative,) = torch.autograd.grad(tempered(loss, temper), loss)
    expected = (derivative * slope).item()
    assert tempered_slopes(loss, slope, temper).item() == pytest.approx(
        expected, rel=1e-6, abs=1e-9
    )


def test_tempered_losses_lie_between_the_cross_entropy_and_the_expected_error():
    p = torch.tensor([0.9, 0.5, 1e-6], dtype=torch.float64)
    torch.testing.assert_close(tempered(-p.log(), 1.0), 1 - p)
    torch.testing.assert_close(tempered(-p.log(), 1e-9), -p.log(), rtol=1e-6, atol=1e-6)
    assert tempered(-p.log()).max() <= 1 / TEMPER


def test_resampled_weights_spread_as_the_samples_do():
    def spread(noise):
        generator = torch.Generator().manual_seed(0)
        minima = 0.5 + noise * torch.randn(30, generator=generator, dtype=torch.float64)
        evidence = Evidence(
            **vars(parabola(0.5))
            | {
                "losses_federated": (1 - minima) ** 2,
                "losses_local": minima**2,
                "slopes_federated": 2 * (1 - minima),
                "slopes_local": -2 * minima,
                "resamples": bootstrap(30, seed=0),
            }
        )
        weights = resampled_weights(evidence, temper=0.0)
        assert RULES["excess-loss"](evidence) == pytest.approx(0.5, abs=0.2)
        return weights.std().item()

    assert spread(0.0) == pytest.approx(0.0, abs=1e-9)
    assert 0.01 < spread(0.1) < spread(0.5)


def test_resamples_are_seeded_means():
    weights = bootstrap(30, seed=1)
    torch.testing.assert_close(weights.sum(1), torch.ones(len(weights), dtype=torch.float64))
    assert torch.equal(weights, bootstrap(30, seed=1))
    assert not torch.equal(weights, bootstrap(30, seed=2))


def test_excess_loss_refuses_a_loss_that_is_not_finite():
    with pytest.raises(EstimationError, match="not finite"):
        RULES["excess-loss"](evidence_of(lambda x: float("nan"), lambda x: 0.0))
