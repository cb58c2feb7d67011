"""Every rule on evidence whose answer is known."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from potara_flwr.errors import EstimationError
from potara_flwr.fisher import VarianceTraces
from potara_flwr.rules import RULES, Evidence
from potara_flwr.rules.segment import quartic

number = st.floats(-10, 10)


def evidence_of(loss, slope) -> Evidence:
    """Evidence of a loss that is a known function of λ."""
    return Evidence(
        traces=VarianceTraces(4.0, 2.0, 1.0),
        fisher_federated={"w": torch.tensor([3.0, 1.0])},
        fisher_local={"w": torch.tensor([1.0, 1.0])},
        loss_federated=loss(1.0),
        loss_local=loss(0.0),
        slope_federated=slope(1.0),
        slope_local=slope(0.0),
        loss_at=loss,
    )


def parabola(minimum):
    return evidence_of(lambda x: (x - minimum) ** 2 + 1, lambda x: 2 * (x - minimum))


def test_variance_trace_is_the_papers_closed_form():
    assert RULES["variance-trace"](parabola(0.9)) == pytest.approx(0.25)


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
        **{**vars(evidence), "loss_at": lambda x: asked.append(x) or (x - 0.4) ** 2}
    )
    RULES["grid"](counting)
    assert len(asked) == 9
    assert 0.0 not in asked
    assert 1.0 not in asked
