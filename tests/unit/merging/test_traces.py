"""Per-sample gradients, Fisher and traces against autograd, a minimizer, and the bound."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from potara_flwr.core.errors import EstimationError
from potara_flwr.merging.traces import GradientMoments, VarianceTraces, variance_traces
from potara_flwr.tasks.base import take
from potara_flwr.training.gradients import per_sample_gradients
from potara_flwr.training.local_steps import train


def trained_adapter(bench):
    """A few steps away from the initial adapter, so that no factor is zero."""
    data = bench.client(0)
    adapter, _ = train(
        bench.model, bench.task, bench.model.initial, data.train, bench.settings.train,
        steps=3, seed=0, who="test",
    )  # fmt: skip
    return adapter


def gradients_by_loop(bench, adapter, samples):
    """One autograd call a sample."""
    rows = []
    for index in range(len(samples["labels"])):
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in adapter.items()}
        one = take(samples, slice(index, index + 1))
        loss = bench.task.losses(bench.model(leaves, one), one).sum()
        rows.append(torch.autograd.grad(loss, list(leaves.values())))
    return {
        name: torch.stack(column)
        for name, column in zip(adapter, zip(*rows, strict=True), strict=True)
    }


def test_per_sample_gradients_equal_the_loop(bench):
    adapter = trained_adapter(bench)
    samples = bench.client(0).calibration

    batched = per_sample_gradients(bench.model, bench.task, adapter, samples)

    expected = gradients_by_loop(bench, adapter, samples)
    assert list(batched.gradients) == list(adapter)
    for name, gradient in expected.items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(batched.gradients[name], gradient, rtol=1e-4, atol=1e-6)
    logits = bench.model(adapter, samples)
    torch.testing.assert_close(batched.losses, bench.task.losses(logits, samples))


def test_per_sample_gradients_at_the_initial_adapter_vanish_for_a(bench):
    # B is zero there, so no gradient reaches A.
    batched = per_sample_gradients(
        bench.model, bench.task, bench.model.initial, bench.client(0).calibration
    )
    for name, gradient in batched.gradients.items():
        assert bool(gradient.any()) != ("lora_A" in name)


def test_gradient_pass_leaves_no_hook_and_no_gradient_behind(bench):
    adapter = trained_adapter(bench)
    per_sample_gradients(bench.model, bench.task, adapter, bench.client(0).calibration)
    assert not any(module._forward_hooks for module in bench.model.module.modules())
    assert all(p.grad is None for p in bench.model.module.parameters())


def test_fisher_is_the_mean_squared_gradient_of_autograd(bench):
    adapter = trained_adapter(bench)
    samples = bench.client(0).calibration
    gradients = per_sample_gradients(bench.model, bench.task, adapter, samples).gradients
    moments = GradientMoments()
    moments.add(gradients, gradients)
    fisher = moments.fisher("local")
    loop = gradients_by_loop(bench, adapter, samples)
    for name, gradient in loop.items():
        expected = sum(row.double() ** 2 for row in gradient) / len(gradient)
        torch.testing.assert_close(fisher[name], expected, rtol=1e-3, atol=1e-9)


def test_correlation_is_pearsons():
    x, y = torch.randn(12, 5, dtype=torch.double), torch.randn(12, 5, dtype=torch.double)
    x[:, 3] += 1e6  # a mean that sums of squares would not survive
    expected = [np.corrcoef(x[:, j], y[:, j])[0, 1] for j in range(5)]
    for sizes in ((12,), (5, 5, 2), (1,) * 12):
        np.testing.assert_allclose(correlation(x, y, sizes), expected, atol=1e-9)
    x[:, 2] = 0.1
    assert correlation(x, y, (5, 5, 2))[2] == 0


def correlation(x, y, sizes):
    moments = GradientMoments()
    for f, l in zip(x.split(sizes), y.split(sizes), strict=True):
        moments.add({"w": f}, {"w": l})
    return moments.correlation("w")


traces = st.tuples(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6), st.floats(0, 1)).map(
    lambda t: VarianceTraces(t[0], t[1], t[2] * min(t[0], t[1]))
)


@given(traces)
def test_best_weight_lies_in_the_unit_interval(trace):
    assert 0.0 <= trace.best_weight() <= 1.0


@given(traces)
def test_bound_at_the_best_weight_is_no_worse_than_either_end(trace):
    best = trace.bound(trace.best_weight())
    assert best <= min(trace.federated, trace.local) * (1 + 1e-9)


@given(traces)
def test_best_weight_minimizes_the_bound_numerically(trace):
    found = minimize_scalar(trace.bound, bounds=(0, 1), method="bounded", options={"xatol": 1e-9})
    scale = max(trace.federated, trace.local)
    assert trace.bound(trace.best_weight()) <= found.fun + 1e-9 * scale


def test_best_weight_and_minimum_agree_with_the_closed_forms():
    trace = VarianceTraces(4.0, 2.0, 1.0)
    assert trace.best_weight() == pytest.approx(0.25)  # (2 − 1) / (4 + 2 − 2)
    assert trace.bound(0.25) == pytest.approx((4 * 2 - 1) / (4 + 2 - 2))
    assert trace.bound(1.0) == 4.0
    assert trace.bound(0.0) == 2.0


def test_bound_is_the_trace_of_the_merged_covariance_of_a_random_joint_covariance():
    rng = np.random.default_rng(0)
    for _ in range(20):
        root = rng.normal(size=(8, 8))
        joint = root @ root.T
        s_f, s_l, s_fl = joint[:4, :4], joint[4:, 4:], joint[:4, 4:]
        trace = VarianceTraces(np.trace(s_f), np.trace(s_l), np.trace(s_fl))

        def merged(weight, joint=joint):
            mix = np.hstack([weight * np.eye(4), (1 - weight) * np.eye(4)])
            return np.trace(mix @ joint @ mix.T)

        for weight in (0.0, 0.3, 1.0):
            assert trace.bound(weight) == pytest.approx(merged(weight))
        best = minimize_scalar(merged, bounds=(0, 1), method="bounded", options={"xatol": 1e-10}).x
        assert trace.best_weight() == pytest.approx(best, abs=1e-5)


def test_adapters_that_agree_weigh_the_same():
    assert VarianceTraces(3.0, 3.0, 3.0).best_weight() == 0.5


def test_equal_gradients_give_equal_traces_and_half():
    gradients = {"w": torch.randn(10, 4, 3)}
    trace = variance_traces(gradients, gradients, damping=1e-2)
    assert trace.federated == trace.local == pytest.approx(trace.cross)
    assert trace.best_weight() == 0.5


@given(st.integers(0, 10_000), st.floats(1e-10, 10))
def test_traces_satisfy_the_condition_of_the_closed_form(seed, damping):
    generator = torch.Generator().manual_seed(seed)
    f = {"w": torch.randn(7, 5, generator=generator)}
    l = {"w": 0.5 * f["w"] + torch.randn(7, 5, generator=generator)}
    trace = variance_traces(f, l, damping)
    assert 0 <= trace.cross <= min(trace.federated, trace.local)
    assert 0 <= trace.best_weight() <= 1


def test_traces_follow_the_formula_coordinate_by_coordinate():
    rng = np.random.default_rng(0)
    f = rng.normal(size=(9, 4))
    l = f * [1, -1, 0.5, 0] + rng.normal(size=(9, 4))
    a = b = c = 0.0
    for j in range(4):
        sigma_f, sigma_l = 1 / ((f[:, j] ** 2).mean() + 0.1), 1 / ((l[:, j] ** 2).mean() + 0.1)
        rho = np.corrcoef(f[:, j], l[:, j])[0, 1]
        a, b = a + sigma_f, b + sigma_l
        c += np.clip(rho * np.sqrt(sigma_f * sigma_l), 0, min(sigma_f, sigma_l))
    trace = variance_traces({"w": torch.tensor(f)}, {"w": torch.tensor(l)}, damping=0.1)
    assert (trace.federated, trace.local, trace.cross) == pytest.approx((a, b, c))


def test_dead_coordinates_are_bounded_by_the_damping():
    dead = {"w": torch.zeros(5, 4)}
    trace = variance_traces(dead, {"w": torch.ones(5, 4)}, damping=1e-2)
    assert trace.federated == pytest.approx(4 / 1e-2)


def test_a_trace_that_is_not_finite_names_the_adapter():
    bad = {"w": torch.full((5, 4), float("nan"))}
    with pytest.raises(EstimationError, match="local adapter"):
        variance_traces({"w": torch.ones(5, 4)}, bad, damping=1e-2)
