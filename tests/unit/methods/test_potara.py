"""Local training: on all samples, or in two parts, before and after the weight is chosen."""

import pytest
import torch
from clients import client_of, moved, same_bits

from potara_flwr.methods import METHODS
from potara_flwr.methods import client as client_module
from potara_flwr.methods.local_adapter import refit, refit_steps, train_local
from potara_flwr.methods.potara import merge_by_evidence
from potara_flwr.tasks.base import join, num_samples

HELD_OUT = {"calibration.source": "held-out"}


@pytest.fixture
def watched(monkeypatch):
    """Every call of local training: its steps, its samples, and whom it starts from."""
    calls = []
    original = client_module.train

    def train(model, task, adapter, samples, settings, *, steps, **kwargs):
        calls.append((steps, samples, adapter))
        return original(model, task, adapter, samples, settings, steps=steps, **kwargs)

    monkeypatch.setattr(client_module, "train", train)
    return calls


def local_training(tiny, overrides):
    client = client_of(tiny({"local.steps": 6, **overrides}))
    return client.data, merge_by_evidence(client, client.model.initial)


def test_the_calibration_samples_join_after_the_weight_is_chosen(tiny, watched):
    data, outcome = local_training(tiny, {**HELD_OUT, "local.refit-share": 0.5})
    (first_steps, first, _), (last_steps, last, start) = watched
    assert (first_steps, last_steps) == (3, 3)
    assert num_samples(first) == num_samples(data.train)
    assert num_samples(last) == num_samples(data.train) + num_samples(data.calibration)
    assert torch.equal(last["pixel_values"][num_samples(data.train):],
                       data.calibration["pixel_values"])  # fmt: skip
    assert any(
        not torch.equal(outcome.adapters["local"][name], tensor) for name, tensor in start.items()
    )


def test_a_share_of_zero_keeps_them_out(tiny, watched):
    data, _ = local_training(tiny, {**HELD_OUT, "local.refit-share": 0.0})
    ((steps, samples, _),) = watched
    assert steps == 6
    assert num_samples(samples) == num_samples(data.train)


def test_samples_that_are_not_held_out_are_trained_on_from_the_first_step(tiny, watched):
    data, _ = local_training(tiny, {"local.refit-share": 0.5})
    ((steps, samples, _),) = watched
    assert steps == 6
    assert num_samples(samples) == num_samples(data.train) + num_samples(data.calibration)


def test_the_local_adapter_is_the_fine_tuned_one(tiny):
    """As many bytes, steps and samples: what the merge adds is all that Potara differs by."""
    settings = {"local.steps": 3, "local.start": "warm"}
    ours, theirs = client_of(tiny(settings)), client_of(tiny({**settings, "method": "fedit_ft"}))
    federated = moved(ours)
    local = METHODS["potara"].personalize(ours, federated).adapters["local"]
    assert same_bits(local, METHODS["fedit_ft"].personalize(theirs, federated).adapters[""])


def test_the_weight_is_that_of_half_way(tiny):
    """Twice the steps with the second half after the choice: the same evidence, another end."""
    long, short = (
        local_training(tiny, {**HELD_OUT, "local.steps": steps, "local.refit-share": share})[1]
        for steps, share in ((6, 0.5), (3, 0.0))
    )
    long, short = long.report, short.report
    assert long.weights["excess-loss"] == short.weights["excess-loss"]
    assert long.traces == short.traces
    assert long.loss["local"] != short.loss["local"]


def test_without_a_comparison_the_merge_is_the_same(tiny):
    compared, alone = (
        local_training(tiny, {"merge.compare": compare})[1] for compare in (True, False)
    )
    for place, adapter in compared.adapters.items():
        assert all(torch.equal(alone.adapters[place][name], at) for name, at in adapter.items())
    with_rules, report = compared.report.to_json(), alone.report.to_json()
    for name in ("personalized", "diagnosis", "traces", "bound"):
        assert report[name] == with_rules[name]
    assert with_rules["weights"].pop("oracle") is not None
    assert report["weights"] == with_rules["weights"]
    assert set(report["accuracy"]) == {"initial", "federated", "local"}
    assert report["accuracy"].items() <= with_rules["accuracy"].items()
    assert "grid" not in report


@pytest.mark.parametrize(("steps", "share", "late"), [(300, 0.5, 150), (5, 0.5, 2), (0, 0.5, 0)])
def test_all_local_steps_are_taken(tiny, steps, share, late):
    settings = tiny({**HELD_OUT, "local.steps": steps, "local.refit-share": share})
    assert refit_steps(settings) == late


def test_refit_of_no_steps_is_the_adapter_itself(tiny):
    client = client_of(tiny({"local.steps": 2}))
    local, _ = train_local(client, client.model.initial)
    assert refit(client, local, 0)[0] is local


def test_joined_texts_are_padded_to_the_longer():
    first = {"input_ids": torch.ones(2, 3, dtype=torch.long), "labels": torch.tensor([0, 1])}
    second = {"input_ids": torch.full((1, 5), 2), "labels": torch.tensor([2])}
    joined = join(first, second)
    assert joined["input_ids"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [2, 2, 2, 2, 2]]
    assert joined["labels"].tolist() == [0, 1, 2]
