"""PF2LoRA's defining properties, on one client and without a message."""

import pytest
import torch
from clients import client_of, moved, same_bits
from peft import PeftModel
from transformers import AutoModelForImageClassification

from potara_flwr.core.errors import TrainingError
from potara_flwr.methods.base import plain_round
from potara_flwr.methods.pf2lora import (
    OWN,
    TwoLevels,
    both,
    keep_both,
    own_adapter,
    score_both,
    train_two_levels,
)
from potara_flwr.models.adapter import kind_of, lora_pairs
from potara_flwr.models.lora import save_adapter
from potara_flwr.training.local_steps import one_thread


@pytest.fixture
def client(tiny):
    """A client of PF2LoRA with these settings; computed on one thread, as the apps do."""

    def make(overrides=None):
        return client_of(tiny({"method": "pf2lora", "data.test-samples": 12, **(overrides or {})}))

    with one_thread():
        yield make


def batch_of(client):
    return [{name: tensor[:8] for name, tensor in client.samples.items()}]


def with_own(client):
    """Let a client's own adapter be one whose D is not 0."""
    draw = torch.Generator().manual_seed(3)
    own = own_adapter(client)
    client.personal[OWN] = {
        n: t if kind_of(n) == "A" else 0.3 * torch.randn(t.shape, generator=draw)
        for n, t in own.items()
    }
    return client.personal[OWN]


def test_the_own_adapter_is_smaller_and_does_nothing_at_first(client):
    one = client()
    own, initial = own_adapter(one), one.model.initial
    assert [a for a, _ in lora_pairs(own)] == [a for a, _ in lora_pairs(initial)]
    for a, b in lora_pairs(own):
        assert own[a].shape == (initial[a].shape[0] // 2, *initial[a].shape[1:])
        assert own[a].abs().max() <= initial[a].shape[1] ** -0.5
        assert not own[b].any()
    assert not any(kind_of(name) == "head" for name in own)
    least = client({"baseline.pf2lora-share": 0.01})
    assert {own_adapter(least)[a].shape[0] for a, _ in lora_pairs(own)} == {1}


def test_the_model_is_the_base_and_both_updates(client):
    one = client()
    own, received = with_own(one), moved(one, 12)
    stacked = both(one, received)
    for a, b in lora_pairs(received):
        assert stacked[a].shape[0] == received[a].shape[0] + own[a].shape[0]
        expected = received[b] @ received[a] + own[b] @ own[a]
        torch.testing.assert_close(stacked[b] @ stacked[a], expected)
    for name in received:
        if kind_of(name) == "head":
            assert torch.equal(stacked[name], received[name])


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_common_gradient_is_that_of_the_loss_after_the_own_step(client, dropout):
    """The derivative along a direction, against a difference of f(x, y − α ∇_y f(x, y))."""
    one = client({"lora.dropout": dropout, "baseline.pf2lora-rate": 2.0})
    own, common = with_own(one), moved(one, 12)
    batch, rate = batch_of(one), 2.0
    one.model.module.train()
    try:
        levels = TwoLevels(one, 1)

        def after(tensors):
            _, _, slope = levels._gradients(tensors, own, batch)
            moved_own = {n: t - rate * slope[n] for n, t in own.items()}
            return levels._gradients(tensors, moved_own, batch)

        draw = torch.Generator().manual_seed(1)
        direction = {n: torch.randn(t.shape, generator=draw) for n, t in common.items()}
        step = 1e-3
        ahead, behind = (
            after({n: t + by * direction[n] for n, t in common.items()})[0] for by in (step, -step)
        )
        expected = (ahead - behind) / (2 * step)
        there, plain, _ = after(common)
        tensors = {n: t.clone().requires_grad_() for n, t in common.items()}
        assert levels(tensors, batch) == there
    finally:
        one.model.module.eval()
    along = sum((t.grad * direction[n]).sum().item() for n, t in tensors.items())
    assert along == pytest.approx(expected, rel=2e-2)
    # It is not the gradient of a single level.
    single = sum((plain[n] * direction[n]).sum().item() for n in common)
    assert abs(single - expected) > 5 * abs(along - expected)


def test_the_own_adapter_takes_a_step_of_sgd_before_the_common_one(client):
    one = client({"train.local-steps": 1, "baseline.pf2lora-rate": 0.5})
    own, received = with_own(one), moved(one)
    levels = TwoLevels(one, 1)
    batch = batch_of(one)
    _, _, slope = levels._gradients(received, own, batch)
    levels({n: t.clone().requires_grad_() for n, t in received.items()}, batch)
    for name, tensor in own.items():
        torch.testing.assert_close(levels.own[name], tensor - 0.5 * slope[name])


def test_an_own_adapter_that_stands_still_leaves_fedit(client):
    one = client({"baseline.pf2lora-rate": 0.0})
    received = moved(one)
    trained = train_two_levels(one, received, 1)
    plain = plain_round(one, received, 1)
    assert trained.loss == pytest.approx(plain.loss, rel=1e-5)
    for name, tensor in plain.adapter.items():
        torch.testing.assert_close(trained.adapter[name], tensor, rtol=1e-4, atol=1e-5)


def test_what_is_personal_stays_and_is_never_sent(client):
    one = client()
    sent = train_two_levels(one, moved(one), 1).adapter
    assert {n: t.shape for n, t in sent.items()} == {
        n: t.shape for n, t in one.model.initial.items()
    }
    first = one.personal[OWN]
    assert any(first[b].any() for _, b in lora_pairs(first))
    train_two_levels(one, moved(one), 2)
    assert not same_bits(one.personal[OWN], first)
    assert score_both(one, sent) == one.score(keep_both(one, sent).adapters[""])


def test_the_one_adapter_loads_on_the_plain_base_with_equal_outputs(client, tmp_path):
    one = client()
    with_own(one)
    adapter = keep_both(one, moved(one, 12)).adapters[""]
    save_adapter(tmp_path, adapter, one.model.config, "base", one.model.buffers)
    base = AutoModelForImageClassification.from_pretrained(one.settings.task.model)
    plain = PeftModel.from_pretrained(base, str(tmp_path)).eval()
    inputs = one.task.collate(one.data.test)
    logits = plain(pixel_values=inputs["pixel_values"]).logits
    torch.testing.assert_close(logits, one.model(adapter, inputs))


def test_an_own_adapter_that_diverges_names_its_rate(client):
    one = client({"baseline.pf2lora-rate": 1e30})
    with pytest.raises(TrainingError, match=r"own adapter: the loss is nan .*pf2lora-rate"):
        train_two_levels(one, moved(one), 1)
