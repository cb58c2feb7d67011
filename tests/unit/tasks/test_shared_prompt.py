"""Answers side by side behind one prompt: the numbers of answers in rows of their own."""

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GPT2Config,
    GPTNeoConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    OPTConfig,
)

from potara_flwr.models.lora import LoraModel
from potara_flwr.run_config import from_flat
from potara_flwr.settings.groups import LoraSettings
from potara_flwr.tasks.multiple_choice import MultipleChoice, option_scores
from potara_flwr.tasks.shared_prompt import most_columns
from potara_flwr.training.gradients import per_sample_gradients
from potara_flwr.training.local_steps import EVALUATION_BATCH, evaluate

SIZES = {
    "vocab_size": 61, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "initializer_range": 0.3,
}  # fmt: skip
LLAMA = LlamaConfig(**SIZES, num_key_value_heads=1, max_position_embeddings=256)
GPT2 = GPT2Config(vocab_size=61, n_embd=16, n_layer=2, n_head=2, n_positions=256)
OPT = OPTConfig(
    vocab_size=61, hidden_size=16, ffn_dim=24, num_hidden_layers=2, num_attention_heads=2,
    word_embed_proj_dim=16, max_position_embeddings=256, init_std=0.3, dropout=0.0,
)  # fmt: skip


def model_of(config, **options):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, **options).eval()


def questions(n=5, most=4, seed=0):
    """Questions with prompts of 4 to 9 tokens and 2 to ``most`` options of 1 to 4 tokens."""
    draws = torch.Generator().manual_seed(seed)

    def number(low, high):
        return int(torch.randint(low, high + 1, (1,), generator=draws))

    samples = {
        "input_ids": torch.randint(61, (n, 9), generator=draws),
        "attention_mask": torch.zeros(n, 9, dtype=torch.long),
        "labels": torch.zeros(n, dtype=torch.long),
        "labels_answers": torch.randint(61, (n, most, 4), generator=draws),
        "labels_mask": torch.zeros(n, most, 4, dtype=torch.bool),
        "labels_weights": torch.zeros(n, most, 4),
        "labels_reply": torch.zeros(n, dtype=torch.long),
        "labels_open": torch.zeros(n, dtype=torch.bool),
    }
    for row in range(n):
        samples["attention_mask"][row, -number(4, 9) :] = 1
        options = most if row == 0 else number(2, most)
        samples["labels"][row] = number(0, options - 1)
        for option in range(options):
            samples["labels_mask"][row, option, : number(1, 4)] = True
    samples["labels_weights"] = samples["labels_mask"].float()
    return samples


def lora_of(base, rank=2):
    model = LoraModel(base, LoraSettings(rank=rank, alpha=4.0), (), seed=0)
    draws = torch.Generator().manual_seed(1)
    adapter = {
        name: at + 0.2 * torch.randn(at.shape, generator=draws)
        for name, at in model.initial.items()
    }
    return model, adapter


def tasks():
    """The task with rows apart, and with shared ones."""
    apart, shared = (MultipleChoice(from_flat({"task.name": "multiple-choice"})) for _ in range(2))
    shared.most_columns = 256
    return apart, shared


@pytest.mark.parametrize("config", [LLAMA, GPT2, OPT], ids=lambda config: config.model_type)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_scores_losses_and_gradients_are_those_of_rows_apart(config, attention):
    model, adapter = lora_of(model_of(config, attn_implementation=attention))
    samples, found = questions(), []
    for task in tasks():
        batch = task.collate(samples)
        leaves = {name: at.clone().requires_grad_() for name, at in adapter.items()}
        logits = model(leaves, batch)
        task.losses(logits, batch).mean().backward()
        gradients = {name: at.grad for name, at in leaves.items()}
        each = per_sample_gradients(model, task, adapter, samples, batch_size=2)
        found.append(
            (
                option_scores(logits, batch).detach(),
                gradients,
                each.losses,
                each.gradients,
                evaluate(model, task, adapter, samples, EVALUATION_BATCH).loss,
            )
        )
        assert len(batch["input_ids"]) == (5 if task.most_columns else 20)
    torch.testing.assert_close(*found, atol=2e-5, rtol=2e-4)
    assert max(float(at.abs().max()) for at in found[0][1].values()) > 0.01


def test_an_option_does_not_see_the_others():
    model, adapter = lora_of(model_of(LLAMA))
    _, task = tasks()
    samples = questions()
    other = {name: at.clone() for name, at in samples.items()}
    other["labels_answers"][:, 1] = (other["labels_answers"][:, 1] + 7) % 61
    with torch.no_grad():
        before, after = (
            option_scores(model(adapter, batch), batch)
            for batch in map(task.collate, (samples, other))
        )
    others = [0, 2, 3]
    torch.testing.assert_close(before[:, others], after[:, others])
    assert ((before - after)[:, 1].abs() > 0.01).all()


def test_a_row_that_would_be_too_long_is_not_shared():
    _, task = tasks()
    columns = task.collate(questions())["input_ids"].shape[1]
    for most, rows in ((columns, 5), (columns - 1, 20)):
        task.most_columns = most
        assert len(task.collate(questions())["input_ids"]) == rows


def test_a_model_that_takes_such_rows_is_known_by_its_positions():
    for config in (LLAMA, GPT2, OPT):
        for dtype in (torch.float32, torch.bfloat16):
            assert most_columns(model_of(config, dtype=dtype), 64) == 256


MISTRAL = MistralConfig(**SIZES, num_key_value_heads=1, sliding_window=32)
GPT_NEO = GPTNeoConfig(
    vocab_size=61, hidden_size=16, num_layers=2, num_heads=2, attention_types=[[["local"], 2]],
    window_size=32,
)  # fmt: skip


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (BloomConfig(vocab_size=61, hidden_size=16, n_layer=2, n_head=2), "takes no mask"),
        (MambaConfig(vocab_size=61, hidden_size=16, num_hidden_layers=2), "takes no mask"),
        (MISTRAL, "looks back over a window"),
        (GPT_NEO, "looks back over a window"),
    ],
    ids=lambda one: getattr(one, "model_type", None),
)
def test_a_model_that_does_not_is_named(config, why, caplog):
    assert most_columns(model_of(config), 64) == 0
    (line,) = [at.getMessage() for at in caplog.records if at.name.startswith("potara_flwr")]
    assert f"{type(model_of(config)).__name__} {why}" in line
    assert "computed once for each of its options" in line


def test_a_window_no_shorter_than_a_question_is_none():
    assert most_columns(model_of(MISTRAL), 32) > 0


class Forgetful(nn.Module):
    """A language model that takes a mask of two dimensions only, and ignores any other."""

    def __init__(self, model):
        super().__init__()
        self.model, self.config = model, model.config
        self.dtype, self.device = model.dtype, model.device
        self.get_input_embeddings = model.get_input_embeddings

    def forward(self, attention_mask, **inputs):
        mask = attention_mask if attention_mask.ndim == 2 else None
        return self.model(attention_mask=mask, **inputs)


def test_a_model_that_ignores_the_mask_is_found_by_its_numbers(caplog):
    assert most_columns(Forgetful(model_of(LLAMA)), 64) == 0
    assert "Forgetful gives answers side by side other scores" in caplog.text
