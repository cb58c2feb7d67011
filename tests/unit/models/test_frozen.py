"""Nothing of a base model changes, whatever is trained on it: to the bit, buffers too."""

import hashlib

import pytest
import torch
from architectures import IMAGE, SIDE, TEXT, config_of, enliven
from torch import nn
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

from potara_flwr.core.errors import SettingsError
from potara_flwr.models.frozen import keep_statistics
from potara_flwr.models.lora import LoraModel
from potara_flwr.run_config import from_flat
from potara_flwr.tasks.text_classification import TextClassification
from potara_flwr.training.gradients import per_sample_gradients
from potara_flwr.training.local_steps import evaluate, train

SETTINGS = from_flat(
    {"lora.rank": 2, "lora.dropout": 0.1, "train.batch-size": 4, "train.learning-rate": 0.05}
)


def bits(module):
    """Return a hash of every parameter and buffer of a model by its name."""
    return {
        name: hashlib.sha256(tensor.detach().contiguous().numpy().tobytes()).hexdigest()
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]
    }


def samples_for(name, n=6):
    draws = torch.Generator().manual_seed(0)
    labels = {"labels": torch.arange(n) % 2}
    if name in IMAGE:
        return {"pixel_values": torch.randn(n, 3, SIDE, SIDE, generator=draws) + 2, **labels}
    ids = torch.randint(2, 40, (n, 8), generator=draws)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **labels}


def base_of(name):
    torch.manual_seed(0)
    if name in IMAGE:
        base = AutoModelForImageClassification.from_config(config_of(name, num_labels=2))
        enliven(base)
        return base
    config = config_of(name, num_labels=2, vocab_size=40, pad_token_id=0)
    return AutoModelForSequenceClassification.from_config(config)


def model_of(name):
    return LoraModel(base_of(name), SETTINGS.lora, None, seed=0)


class Task(TextClassification):
    """Cross-entropy on samples as they are."""

    def collate(self, samples):
        return samples


@pytest.mark.parametrize("checkpoints", [False, True], ids=["plain", "checkpointed"])
@pytest.mark.parametrize("name", IMAGE | TEXT)
def test_nothing_of_a_base_model_changes(name, checkpoints):
    model, task, samples = model_of(name), Task(SETTINGS), samples_for(name)
    if checkpoints:
        if not model.module.get_base_model().supports_gradient_checkpointing:
            with pytest.raises(SettingsError, match="gradient-checkpointing"):
                model.checkpoint_gradients()
            return
        model.checkpoint_gradients()
    before = bits(model.module)
    scored = evaluate(model, task, model.initial, samples)
    adapter = model.initial
    for seed in range(2):
        adapter, _ = train(
            model, task, adapter, samples, SETTINGS.train, steps=2, seed=seed, who="test"
        )
        per_sample_gradients(model, task, adapter, samples)
    assert any(not torch.equal(tensor, adapter[at]) for at, tensor in model.initial.items())
    assert bits(model.module) == before
    assert evaluate(model, task, model.initial, samples) == scored


@pytest.mark.parametrize("name", IMAGE)
def test_a_forward_pass_in_training_mode_changes_nothing(name):
    base, samples = base_of(name), samples_for(name)
    keep_statistics(base)
    before = bits(base)
    base.train()
    base(pixel_values=samples["pixel_values"]).logits.sum().backward()
    assert bits(base) == before


def test_in_training_mode_all_is_in_training_but_what_counts_statistics():
    model = model_of("mobilevit")
    counting = [part for part in model.module.modules() if isinstance(part, nn.BatchNorm2d)]
    assert counting
    for mode in (True, False):
        model.module.train(mode)
        for part in model.module.modules():
            assert part.training == (mode and part not in counting)


class Normalized(nn.Module):
    """A linear layer behind batch norm, as heads of some convolutional models are."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(16)
        self.linear = nn.Linear(16, 2)

    def forward(self, states):
        return self.linear(self.norm(states))


def test_a_trained_heads_statistics_stay_and_its_weights_are_trained():
    base = AutoModelForImageClassification.from_config(config_of("vit", num_labels=2))
    base.classifier = Normalized()
    model, samples = LoraModel(base, SETTINGS.lora, None, seed=0), samples_for("vit")
    before = bits(model.module)
    adapter, _ = train(
        model, Task(SETTINGS), model.initial, samples, SETTINGS.train, steps=3, seed=0, who="test"
    )
    assert bits(model.module) == before
    changed = {name for name, at in model.initial.items() if not torch.equal(at, adapter[name])}
    assert {f"base_model.model.classifier.norm.{part}" for part in ("weight", "bias")} <= changed
