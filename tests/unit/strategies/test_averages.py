"""Exact averages: the stack is the mean of the updates, the truncation the best of its rank."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from potara_flwr.merging.segment import deltas
from potara_flwr.strategies.averages import (
    average_components,
    exact_average,
    stack_updates,
    weighted_average,
)

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
    averaged, error = exact_average(updates, weights, updates[0])
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

    apart = weighted_average(updates, [1, 1])
    exact, _ = exact_average(updates, [1, 1], updates[0])
    assert distance(exact) < 0.5 * distance(apart)


def test_equal_updates_are_their_own_average():
    averaged, error = exact_average([update_of(1)] * 3, [1, 2, 3], update_of(1))
    assert error == pytest.approx(0.0, abs=1e-7)
    for name, update in updates_of(update_of(1)).items():
        torch.testing.assert_close(updates_of(averaged)[name], update, rtol=1e-4, atol=1e-5)


def test_where_a_is_not_sent_the_average_of_b_is_exact_already():
    updates = [
        {name: array for name, array in update_of(seed).items() if "lora_A" not in name}
        for seed in range(2)
    ]
    averaged, error = exact_average(updates, [1, 3], updates[0])
    assert error == 0.0
    for name, array in weighted_average(updates, [1, 3]).items():
        np.testing.assert_array_equal(averaged[name], array)


def test_components_are_averaged_over_the_updates_that_have_them():
    a, b, head = "q.lora_A.weight", "q.lora_B.weight", "classifier.bias"
    start = {a: [[9, 9], [8, 8], [7, 7]], b: [[0.5, 0.5, 0.75]], head: [1]}
    updates = [
        {a: [[1, 3]], b: [[2]], head: [4]},
        {a: [[5, 7], [4, 4]], b: [[6, 1]], head: [8]},
    ]
    start, *updates = (
        {name: np.array(values, np.float32) for name, values in adapter.items()}
        for adapter in (start, *updates)
    )
    averaged = average_components(updates, [1, 3], start)
    # Of component 0 (1·1 + 3·5) / 4 and so on; 1 is the second's alone; 2 is nobody's.
    np.testing.assert_array_equal(averaged[a], [[4, 6], [4, 4], [7, 7]])
    np.testing.assert_array_equal(averaged[b], [[5, 1, 0.75]])
    np.testing.assert_array_equal(averaged[head], [7])
    assert {array.dtype for array in averaged.values()} == {np.dtype(np.float32)}


@given(weights_lists, st.integers(0, 1000))
def test_of_equal_ranks_the_average_is_the_plain_one_to_the_bit(weights, seed):
    updates = [update_of(seed + client) for client in range(len(weights))]
    averaged = average_components(updates, weights, update_of(0))
    expected = weighted_average(updates, weights)
    assert {name: array.tobytes() for name, array in averaged.items()} == {
        name: array.tobytes() for name, array in expected.items()
    }


def first(adapter, rank) -> dict[str, np.ndarray]:
    cut = {name: array[:rank] for name, array in adapter.items() if "lora_A" in name}
    return {**adapter, **cut, **{n: a[:, :rank] for n, a in adapter.items() if "lora_B" in n}}


@pytest.mark.parametrize("ranks", [(1, 2, 3), (3, 1, 1), (3,)])
def test_every_part_of_an_exact_average_is_the_nearest_adapter_of_its_rank(ranks):
    updates = [update_of(seed, rank) for seed, rank in enumerate(ranks)]
    weights = range(1, len(ranks) + 1)
    averaged, _ = exact_average(updates, weights, update_of(9, rank=3))
    wanted = mean_update(updates, weights)
    for rank in (1, 2, 3):
        got = updates_of(first(averaged, rank))
        for name, update in wanted.items():
            best = torch.linalg.svdvals(update)[rank:].square().sum().item()
            missed = (update - got[name]).square().sum().item()
            assert missed == pytest.approx(best, rel=1e-3, abs=1e-8)


def test_components_that_an_exact_average_has_no_use_for_can_be_trained():
    start, small = update_of(9, rank=3), update_of(1, rank=1)
    twice = {**small, **{n: np.repeat(a, 2, 0) for n, a in small.items() if "lora_A" in n}}
    twice |= {n: np.repeat(a, 2, 1) for n, a in small.items() if "lora_B" in n}
    for updates in ([small], [small, small, small, small], [twice]):  # more rows, but of rank 1
        averaged, error = exact_average(updates, [1] * len(updates), start)
        assert error < 1e-6
        for name in SHAPES:
            a, b = averaged[f"{name}.lora_A.weight"], averaged[f"{name}.lora_B.weight"]
            np.testing.assert_array_equal(a[1:], start[f"{name}.lora_A.weight"][1:])
            assert not b[:, 1:].any()
            assert b[:, :1].all()
        wanted = mean_update(updates, [1] * len(updates))
        for name, update in updates_of(averaged).items():
            torch.testing.assert_close(update, wanted[name], rtol=1e-4, atol=1e-5)
