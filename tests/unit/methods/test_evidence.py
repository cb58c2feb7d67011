"""The gradient passes behind the weight: sums of batches, equal to what all gradients give."""

import gc
import weakref

import pytest
import torch
from clients import client_of, moved

from potara_flwr.merging.segment import segment_between
from potara_flwr.methods import potara
from potara_flwr.methods.potara import gather_evidence
from potara_flwr.models.adapter import groups
from potara_flwr.training.gradients import per_sample_gradients


def held_all(client, segment, batch_size):
    """Return traces, both Fishers and slopes from all samples' gradients at once, as they were
    computed before sums were kept.
    """
    settings = client.settings.calibration
    at_f, at_l = (
        per_sample_gradients(
            client.model, client.task, end, client.data.calibration, batch_size
        ).gradients
        for end in (segment.federated_end, segment.local_end)
    )
    slopes = [segment.slopes(at) for at in (at_f, at_l)]
    own_f, own_l = segment.own_factors(at_f, "federated"), segment.own_factors(at_l, "local")
    fishers = [
        {name: g.double().square().mean(0) + settings.damping for name, g in own.items()}
        for own in (own_f, own_l)
    ]
    a = b = c = 0.0
    for name in own_f:
        x, y = own_f[name].double(), own_l[name].double()
        sigma_f, sigma_l = 1 / fishers[0][name], 1 / fishers[1][name]
        x, y = x - x.mean(0), y - y.mean(0)
        scale = (x.square().sum(0) * y.square().sum(0)).sqrt()
        rho = torch.where(scale > 0, (x * y).sum(0) / scale, torch.zeros_like(scale))
        cross = (rho * (sigma_f * sigma_l).sqrt()).clamp(min=0).minimum(sigma_f).minimum(sigma_l)
        a, b, c = a + sigma_f.sum(), b + sigma_l.sum(), c + cross.sum()
    return (a, b, c), fishers, slopes


@pytest.fixture
def case(tiny):
    def make(**overrides):
        settings = tiny({"calibration.samples": 7, "calibration.batch-size": 3, **overrides})
        client = client_of(settings)
        adapters = moved(client, purpose="one"), moved(client, purpose="other")
        return client, segment_between(*adapters, settings.merge.space)

    return make


@pytest.mark.parametrize("space", ["factors", "delta"])
@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize("most", [2**30, 20_000, 1])
def test_sums_of_batches_tell_what_all_gradients_do(case, monkeypatch, space, apart, most):
    client, segment = case(**{"merge.space": space})
    monkeypatch.setattr(client.model, "keeps_samples_apart", apart)
    (a, b, c), fishers, slopes = held_all(client, segment, batch_size=3)
    monkeypatch.setattr(potara, "HELD_BYTES", most)
    evidence = gather_evidence(client, segment)

    assert evidence.batched == apart
    traces = evidence.traces
    assert traces.federated == pytest.approx(a.item(), rel=1e-12)
    assert traces.local == pytest.approx(b.item(), rel=1e-12)
    assert traces.cross == pytest.approx(c.item(), rel=1e-12)
    for found, expected in zip(
        (evidence.fisher_federated, evidence.fisher_local), fishers, strict=True
    ):
        assert list(found) == list(segment.federated)
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-12, atol=1e-15)
    for found, expected in zip(
        (evidence.slopes_federated, evidence.slopes_local), slopes, strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)
    assert evidence.losses_federated.shape == evidence.losses_local.shape == (7,)


def test_as_many_samples_at_once_as_in_training_unless_set(case, monkeypatch):
    sizes = []
    original = potara.gradients_in_batches

    def watched(*args):
        for passes in original(*args):
            sizes.append(len(passes[0].losses))
            yield passes

    monkeypatch.setattr(potara, "gradients_in_batches", watched)
    for own, training, parts, expected in (
        (0, 4, 1, [4, 3]), (0, 16, 1, [7]), (0, 16, 3, [6, 1]), (5, 4, 2, [5, 2]),
    ):  # fmt: skip
        sizes.clear()
        overrides = {"train.batch-size": training, "train.accumulate": parts}
        gather_evidence(*case(**{"calibration.batch-size": own, **overrides}))
        assert sizes == expected


def test_no_gradients_of_a_batch_outlive_it(case, monkeypatch):
    batches, alive = [], []
    original = potara.gradients_in_batches

    def watched(*args):
        for passes in original(*args):
            gc.collect()
            alive.append(sum(ref() is not None for ref in batches))
            batches.extend(weakref.ref(at) for one in passes for at in one.gradients.values())
            yield passes
            del passes

    monkeypatch.setattr(potara, "gradients_in_batches", watched)
    client, segment = case()
    gather_evidence(client, segment)
    assert alive == [0, 0, 0]


def test_groups_are_few_even_and_keep_a_layer_together():
    adapter = {}
    for layer in range(6):
        adapter[f"{layer}.lora_A.weight"] = torch.zeros(2, 5)
        adapter[f"{layer}.lora_B.weight"] = torch.zeros(5, 2)
    adapter["head.weight"] = torch.zeros(20)
    for most, expected in ((10_000, 1), (140 * 4, 1), (139 * 4, 2), (60 * 4, 3), (1, 7)):
        found = groups(adapter, 4, most)
        assert [name for names in found for name in names] == list(adapter)
        assert len(found) == expected
        for names in found:
            assert all(name.replace("_A", "_B") in names for name in names)
    assert groups({}, 4, 1) == []
