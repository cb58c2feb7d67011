"""Gradients of every sample of any trained module: in a batch or one at a time, the same values."""

import logging
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import (
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    SwinConfig,
    SwinForImageClassification,
)

from potara_flwr.merging.traces import variance_traces
from potara_flwr.models.lora import LoraModel
from potara_flwr.settings.groups import LoraSettings
from potara_flwr.tasks.base import take
from potara_flwr.training.gradients import per_sample_gradients

WIDTH, CLASSES = 6, 3


class CrossEntropy:
    """As much of a task as a gradient pass calls."""

    def collate(self, samples):
        return samples

    def losses(self, logits, samples):
        return nn.functional.cross_entropy(logits, samples["labels"], reduction="none")


class Net(nn.Module):
    """A projection for an adapter, then a head: any module (n, 4, 6) → (n, …)."""

    def __init__(self, head):
        super().__init__()
        self.query, self.head, self.last = nn.Linear(WIDTH, WIDTH), head, nn.LazyLinear(CLASSES)

    def forward(self, x):
        hidden = self.head(self.query(x).tanh())
        return SimpleNamespace(logits=self.last(hidden.flatten(1)))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.shared = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return self.shared(self.shared(x).tanh())


class Windows(nn.Module):
    """Folds halves of a sample into rows, sample after sample or window after window."""

    def __init__(self, sample_major):
        super().__init__()
        self.inner, self.sample_major = nn.Linear(WIDTH, WIDTH), sample_major

    def forward(self, x):
        halves = x.unflatten(1, (2, 2))
        rows = halves if self.sample_major else halves.transpose(0, 1)
        rows = self.inner(rows.flatten(0, 1)).tanh().unflatten(0, rows.shape[:2])
        return rows if self.sample_major else rows.transpose(0, 1)


class Positions(nn.Module):
    """Projects a table that all samples share, as DeBERTa does with its relative positions."""

    def __init__(self, rows):
        super().__init__()
        self.table, self.key = nn.Parameter(torch.randn(rows, WIDTH)), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return x @ self.key(self.table).T


class Token(nn.Module):
    """Has a parameter next to a module."""

    def __init__(self):
        super().__init__()
        self.token, self.inner = nn.Parameter(torch.randn(1, WIDTH)), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return self.inner(x + self.token).tanh() * self.token


class Attention(nn.Module):
    """Its input projection is a parameter, its output projection is never called."""

    def __init__(self):
        super().__init__()
        self.inner = nn.MultiheadAttention(WIDTH, 2, batch_first=True)

    def forward(self, x):
        return self.inner(x, x, x)[0]


class Lookup(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(5, WIDTH)

    def forward(self, x):
        return x * self.table((x.detach().sum(-1) * 10).long() % 5)


class Over(nn.Module):
    """A convolution over the 4 × 6 numbers of a sample as an image, in 2 groups."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 3, groups=2), nn.GroupNorm(2, 4)

    def forward(self, x):
        return self.norm(self.conv(x.reshape(len(x), 2, 3, 4))).relu()


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.never = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return self.inner(x)


# Name → head, and whether it keeps the samples of a batch apart.
HEADS = {
    "linear layers": (lambda: nn.Sequential(nn.Linear(WIDTH, 5), nn.GELU()), True),
    "layer norm": (lambda: nn.LayerNorm(WIDTH), True),
    "grouped convolution": (Over, True),
    "embedding": (Lookup, True),
    "shared": (Twice, True),
    "own parameter": (Token, True),
    "unused": (Unused, True),
    "windows of a sample": (lambda: Windows(True), True),
    "windows over samples": (lambda: Windows(False), False),
    "a shared table": (lambda: Positions(4), False),
    "a table of as many rows as tried": (lambda: Positions(3), False),
    "attention": (Attention, False),
}


def model_of(base):
    own = isinstance(base, Net)
    lora = LoraSettings(rank=2, alpha=4.0, target_modules="query" if own else "")
    return LoraModel(base, lora, ("head", "last") if own else None, seed=0)


def away_from_start(model, seed=0, std=0.05):
    draws = torch.Generator().manual_seed(seed)
    return {
        name: tensor + torch.empty_like(tensor).normal_(std=std, generator=draws)
        for name, tensor in model.initial.items()
    }


def loop(model, task, adapter, samples):
    """One autograd call a sample."""
    rows = []
    for index in range(len(samples["labels"])):
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in adapter.items()}
        one = take(samples, slice(index, index + 1))
        loss = task.losses(model(leaves, one), one).sum()
        rows.append(
            torch.autograd.grad(
                loss, list(leaves.values()), allow_unused=True, materialize_grads=True
            )
        )
    columns = zip(*rows, strict=True)
    return {name: torch.stack(column) for name, column in zip(adapter, columns, strict=True)}


@pytest.mark.parametrize("name", HEADS)
def test_any_trained_module_has_the_gradients_of_a_loop(name):
    make, batched = HEADS[name]
    torch.manual_seed(0)
    base = Net(make())
    samples = {"x": torch.randn(6, 4, WIDTH), "labels": torch.arange(6) % CLASSES}
    base(samples["x"])
    model, task = model_of(base), CrossEntropy()
    adapter = away_from_start(model)

    found = per_sample_gradients(model, task, adapter, samples)

    assert found.batched == batched
    assert list(found.gradients) == list(adapter)
    for one, expected in loop(model, task, adapter, samples).items():
        torch.testing.assert_close(found.gradients[one], expected, rtol=1e-4, atol=1e-6)
        assert bool(expected.any()) != ("never" in one), one
    in_parts = per_sample_gradients(model, task, adapter, samples, batch_size=4)
    for one, expected in found.gradients.items():
        torch.testing.assert_close(in_parts.gradients[one], expected, rtol=1e-4, atol=1e-6)


def test_equal_samples_and_a_zero_factor_do_not_hide_that_samples_are_mixed():
    torch.manual_seed(0)
    base = Net(Windows(False))
    samples = {"x": torch.randn(1, 4, WIDTH).repeat(4, 1, 1), "labels": torch.zeros(4).long()}
    base(samples["x"])
    model = model_of(base)
    assert not per_sample_gradients(model, CrossEntropy(), model.initial, samples).batched


def test_what_only_a_whole_batch_shows_is_computed_one_at_a_time(caplog):
    class Long(nn.Module):
        """Treats more than three samples together."""

        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(WIDTH, WIDTH)

        def forward(self, x):
            return self.inner(x) if len(x) <= 3 else self.inner(x.flatten(0, 1)[None])[0].view_as(x)

    torch.manual_seed(0)
    base = Net(Long())
    samples = {"x": torch.randn(5, 4, WIDTH), "labels": torch.arange(5) % CLASSES}
    base(samples["x"])
    model, task = model_of(base), CrossEntropy()
    adapter = away_from_start(model)
    with caplog.at_level(logging.INFO, logger="potara_flwr"):
        found = per_sample_gradients(model, task, adapter, samples)
        per_sample_gradients(model, task, adapter, samples)
    assert not found.batched
    for one, expected in loop(model, task, adapter, samples).items():
        torch.testing.assert_close(found.gradients[one], expected, rtol=1e-4, atol=1e-6)
    said = [record for record in caplog.records if "one sample at a time" in record.message]
    assert len(said) == 1
    assert "inner" in said[0].message


TINY = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
    "vocab_size": 40, "max_position_embeddings": 64, "initializer_range": 0.2, "pad_token_id": 0,
}  # fmt: skip


def deberta():
    config = DebertaV2Config(
        **TINY, relative_attention=True, position_buckets=8, pos_att_type=["p2c", "c2p"],
        norm_rel_ebd="layer_norm", share_att_key=True, position_biased_input=False,
    )  # fmt: skip
    return DebertaV2ForSequenceClassification(config)


def modernbert():
    special = dict.fromkeys(("bos", "eos", "cls", "sep"), 1)
    config = ModernBertConfig(
        **TINY, local_attention=8, **{f"{name}_token_id": at for name, at in special.items()}
    )
    return ModernBertForSequenceClassification(config)


def swin():
    config = SwinConfig(
        image_size=16, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=4,
        initializer_range=0.2,
    )  # fmt: skip
    return SwinForImageClassification(config)


def texts(n=6):
    lengths = torch.tensor([3, 4, 6, 7, 7, 9])[:n]
    mask = (torch.arange(9) < lengths[:, None]).long()
    ids = torch.randint(2, 40, (n, 9), generator=torch.Generator().manual_seed(0)) * mask
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.arange(n) % 2}


def images(n=6):
    draws = torch.Generator().manual_seed(0)
    return {
        "pixel_values": torch.randn(n, 3, 16, 16, generator=draws),
        "labels": torch.arange(n) % 2,
    }


ARCHITECTURES = {
    "deberta-v3": (deberta, texts, False),
    "modernbert": (modernbert, texts, True),
    "swin": (swin, images, True),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_both_ways_give_the_same_traces(name):
    make, data, batched = ARCHITECTURES[name]
    torch.manual_seed(0)
    model, task, samples = model_of(make()), CrossEntropy(), data()
    adapters = [away_from_start(model, seed) for seed in (0, 1)]

    chosen = [per_sample_gradients(model, task, adapter, samples) for adapter in adapters]
    assert {one.batched for one in chosen} == {batched}
    model.keeps_samples_apart = False
    single = [per_sample_gradients(model, task, adapter, samples) for adapter in adapters]
    assert {one.batched for one in single} == {False}

    first, second = (
        variance_traces(both[0].gradients, both[1].gradients, 1e-2) for both in (chosen, single)
    )
    for trace in ("federated", "local", "cross"):
        assert getattr(first, trace) == pytest.approx(getattr(second, trace), rel=1e-6)
    for adapter, found in zip(adapters, chosen, strict=True):
        expected = loop(model, task, adapter, samples)
        for one, gradient in expected.items():
            torch.testing.assert_close(found.gradients[one], gradient, rtol=1e-3, atol=1e-5)
