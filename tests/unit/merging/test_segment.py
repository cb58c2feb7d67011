"""Merges: ends to the bit, exact deltas on layers that are not square, truncation."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from potara_flwr.merging.segment import deltas, interpolate, segment_between, truncate
from potara_flwr.models.adapter import kind_of

SHAPES = {"q": (7, 5), "v": (3, 11)}  # out, in
RANK = 2
RANKS = {f"{name}.lora_A.weight": RANK for name in SHAPES}


def random_adapter(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    adapter = {}
    for name, (rows, columns) in SHAPES.items():
        adapter[f"{name}.lora_A.weight"] = torch.randn(RANK, columns, generator=generator)
        adapter[f"{name}.lora_B.weight"] = torch.randn(rows, RANK, generator=generator)
    adapter["classifier.weight"] = torch.randn(4, 6, generator=generator)
    adapter["classifier.bias"] = torch.tensor([0.0, -0.0, 1.0, -1.0])
    return adapter


def same_bits(left, right):
    return left.keys() == right.keys() and all(
        torch.equal(left[name].view(torch.int32), right[name].view(torch.int32)) for name in left
    )


@pytest.mark.parametrize("space", ["factors", "delta"])
def test_ends_give_back_the_adapters_to_the_bit(space):
    federated, local = random_adapter(1), random_adapter(2)
    segment = segment_between(federated, local, space)
    assert same_bits(segment.at(1.0), federated)
    assert same_bits(segment.at(0.0), local)
    assert segment.at(1.0)["classifier.bias"] is not federated["classifier.bias"]


@given(st.floats(0, 1))
def test_delta_merge_is_the_weighted_sum_of_updates(weight):
    federated, local = random_adapter(1), random_adapter(2)
    merged = deltas(segment_between(federated, local, "delta").at(weight), scaling=2.0)
    update_f, update_l = deltas(federated, 2.0), deltas(local, 2.0)
    for name, update in merged.items():
        expected = weight * update_f[name] + (1 - weight) * update_l[name]
        torch.testing.assert_close(update, expected, rtol=1e-4, atol=1e-5)


def test_factor_merge_averages_the_factors_and_not_the_update():
    federated, local = random_adapter(1), random_adapter(2)
    merged = segment_between(federated, local, "factors").at(0.25)
    for name in federated:
        torch.testing.assert_close(merged[name], 0.25 * federated[name] + 0.75 * local[name])
    a = "q.lora_A.weight"
    exact = 0.25 * deltas(federated, 1.0)[a] + 0.75 * deltas(local, 1.0)[a]
    assert (deltas(merged, 1.0)[a] - exact).abs().max() > 0.1


def test_the_head_is_averaged_in_both_spaces():
    federated, local = random_adapter(1), random_adapter(2)
    for space in ("factors", "delta"):
        merged = segment_between(federated, local, space).at(0.3)
        torch.testing.assert_close(
            merged["classifier.weight"],
            0.3 * federated["classifier.weight"] + 0.7 * local["classifier.weight"],
        )


def test_a_weight_per_coordinate_is_used_per_coordinate():
    federated, local = random_adapter(1), random_adapter(2)
    weight = {name: torch.rand_like(tensor.double()) for name, tensor in federated.items()}
    merged = interpolate(federated, local, weight)
    for name in federated:
        expected = weight[name] * federated[name] + (1 - weight[name]) * local[name]
        torch.testing.assert_close(merged[name].double(), expected.double(), rtol=1e-6, atol=1e-6)
        assert merged[name].dtype == federated[name].dtype


def test_own_factors_cut_an_adapter_out_of_its_end():
    federated, local = random_adapter(1), random_adapter(2)
    segment = segment_between(federated, local, "delta")
    assert same_bits(segment.own_factors(segment.federated_end, "federated"), federated)
    assert same_bits(segment.own_factors(segment.local_end, "local"), local)


@pytest.mark.parametrize("space", ["factors", "delta"])
def test_slope_is_the_derivative_along_the_segment(space):
    federated, local = random_adapter(1), random_adapter(2)
    segment = segment_between(federated, local, space)
    target = random_adapter(3)

    def loss(adapter):
        updates = deltas(adapter, 1.0)
        wanted = deltas(target, 1.0)
        return (
            sum((updates[name] - wanted[name]).square().sum() for name in updates)
            + (adapter["classifier.weight"] - target["classifier.weight"]).square().sum()
        )

    for weight, end in ((1.0, segment.federated_end), (0.0, segment.local_end)):
        leaves = {name: tensor.double().requires_grad_() for name, tensor in end.items()}
        names = [name for name in leaves if name != "classifier.bias"]
        target = {name: tensor.double() for name, tensor in target.items()}
        gradients = torch.autograd.grad(loss(leaves), [leaves[name] for name in names])
        both = {name: torch.stack([g, 3 * g]) for name, g in zip(names, gradients, strict=True)}
        slope, triple = segment.slopes(both).tolist()

        def at(x, segment=segment):
            ends = segment.federated_end, segment.local_end
            return {
                name: x * ends[0][name].double() + (1 - x) * ends[1][name].double()
                for name in ends[0]
            }

        numeric = (loss(at(weight + 1e-6)) - loss(at(weight - 1e-6))) / 2e-6
        assert slope == pytest.approx(numeric.item(), rel=1e-5)
        assert triple == pytest.approx(3 * slope)


def test_truncation_is_the_best_approximation_and_reports_its_error():
    merged = segment_between(random_adapter(1), random_adapter(2), "delta").at(0.5)
    cut, error = truncate(merged, RANKS)
    wanted, got = deltas(merged, 1.0), deltas(cut, 1.0)
    missed = total = 0.0
    for name, update in wanted.items():
        singular = torch.linalg.svdvals(update.double())
        missed += singular[RANK:].square().sum().item()
        total += singular.square().sum().item()
        best = singular[RANK:].square().sum().sqrt().item()
        assert (update - got[name]).norm().item() == pytest.approx(best, rel=1e-4)
        assert cut[name].shape[0] == RANK
    assert error == pytest.approx((missed / total) ** 0.5, rel=1e-6)
    assert 0 < error < 1


def test_truncation_of_no_update_can_still_be_trained():
    merged = segment_between(random_adapter(1), random_adapter(2), "delta").at(0.5)
    nothing = {
        name: torch.zeros_like(t) if kind_of(name) == "B" else t for name, t in merged.items()
    }
    cut, error = truncate(nothing, RANKS)
    assert error == 0.0
    for name, tensor in cut.items():
        if kind_of(name) == "A":
            assert torch.equal(tensor, merged[name][:RANK])
        elif kind_of(name) == "B":
            assert tensor.shape[1] == RANK
            assert not tensor.any()


def test_truncation_of_what_has_the_rank_already_changes_nothing():
    adapter = random_adapter(1)
    cut, error = truncate(adapter, RANKS)
    assert same_bits(cut, adapter)
    assert error == 0.0
