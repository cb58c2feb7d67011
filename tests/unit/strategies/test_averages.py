"""Exact averages: the stack is the mean of the updates, the truncation the best of its rank."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from potara_flwr.merging.segment import deltas
from potara_flwr.strategies.averages import exact_average, stack_updates, weighted_average

SHAPES = {"q": (7, 5), "v": (3, 11)}  # out, in
RANK = 2


def update_of(seed: int, rank: int = RANK) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    update = {}
    for name, (rows, columns) in SHAPES.items():
        update[f"{name}.lora_A.weight"] = rng.normal(size=(rank, columns)).astype(np.float32)
        update[f"{name}.lora_B.weight"] = rng.normal(size=(rows, rank)).astype(np.float32)
    return update | {"classifier.weight": rng.normal(size=(4, 6)).astype(np.float32)}


def updates_of(adapter) -> dict[str, torch.Tensor]:
    return deltas({name: torch.from_numpy(array).double() for name, array in adapter.items()}, 2.0)


def mean_update(updates, weights) -> dict[str, torch.Tensor]:
    every = [updates_of(update) for update in updates]
    return {
        name: sum(w * one[name] for w, one in zip(weights, every, strict=True)) / sum(weights)
        for name in every[0]
    }


weights_lists = st.lists(st.integers(1, 100), min_size=1, max_size=5)


@given(weights_lists, st.integers(0, 1000))
def test_the_stack_is_the_mean_of_the_updates(weights, seed):
    updates = [update_of(seed + client) for client in range(len(weights))]
    stacked = stack_updates(updates, weights)
    assert stacked["q.lora_A.weight"].shape == (RANK * len(weights), 5)
    got, wanted = updates_of(stacked), mean_update(updates, weights)
    for name in wanted:
        torch.testing.assert_close(got[name], wanted[name], rtol=1e-10, atol=1e-10)
    expected = weighted_average(updates, weights)["classifier.weight"]
    np.testing.assert_array_equal(stacked["classifier.weight"], expected)


@given(weights_lists, st.integers(0, 1000))
def test_no_adapter_of_the_rank_is_nearer_to_the_mean(weights, seed):
    updates = [update_of(seed + client) for client in range(len(weights))]
    averaged, error = exact_average(updates, weights)
    assert {name: array.shape for name, array in averaged.items()} == {
        name: array.shape for name, array in updates[0].items()
    }
    got, wanted = updates_of(averaged), mean_update(updates, weights)
    missed = total = 0.0
    for name, update in wanted.items():
        singular = torch.linalg.svdvals(update)
        best = singular[RANK:].square().sum().item()  # Eckart and Young
        assert (update - got[name]).square().sum().item() == pytest.approx(best, rel=1e-3, abs=1e-8)
        missed, total = missed + best, total + singular.square().sum().item()
    assert error == pytest.approx((missed / total) ** 0.5, rel=1e-5, abs=1e-6)


def test_factors_averaged_apart_are_not_the_mean_of_the_updates():
    updates = [update_of(1), update_of(2)]
    wanted = mean_update(updates, [1, 1])

    def distance(adapter):
        got = updates_of(adapter)
        return sum((got[name] - wanted[name]).square().sum().item() for name in wanted)

    apart, (exact, _) = weighted_average(updates, [1, 1]), exact_average(updates, [1, 1])
    assert distance(exact) < 0.5 * distance(apart)


def test_equal_updates_are_their_own_average():
    averaged, error = exact_average([update_of(1)] * 3, [1, 2, 3])
    assert error == pytest.approx(0.0, abs=1e-7)
    for name, update in updates_of(update_of(1)).items():
        torch.testing.assert_close(updates_of(averaged)[name], update, rtol=1e-4, atol=1e-5)


def test_where_a_is_not_sent_the_average_of_b_is_exact_already():
    updates = [
        {name: array for name, array in update_of(seed).items() if "lora_A" not in name}
        for seed in range(2)
    ]
    averaged, error = exact_average(updates, [1, 3])
    assert error == 0.0
    for name, array in weighted_average(updates, [1, 3]).items():
        np.testing.assert_array_equal(averaged[name], array)
