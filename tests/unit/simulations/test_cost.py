"""The computed needs of the language-model presets, against the models they are computed for."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from potara_flwr.data.benchmarks import BENCHMARKS
from potara_flwr.models.lora import LoraModel
from potara_flwr.run_config import from_flat
from potara_flwr.running.composition import compose_settings
from potara_flwr.settings.groups import LoraSettings
from simulations.cost import LLAMA_3_2_3B, OPTIONS, PRESETS, Shape, need, table

SMALL = Shape(384, 2, 1024, 12, 4, 64)


def llama(shape, **overrides):
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=shape.hidden, num_hidden_layers=shape.layers,
            intermediate_size=shape.intermediate, num_attention_heads=shape.heads,
            num_key_value_heads=shape.key_value_heads, vocab_size=shape.vocabulary,
            tie_word_embeddings=True, **overrides,
        )
    )  # fmt: skip


@pytest.mark.parametrize("shape", [SMALL, LLAMA_3_2_3B])
def test_parameters_are_those_of_the_model(shape):
    with torch.device("meta"):
        model = llama(shape)
    assert sum(parameter.numel() for parameter in model.parameters()) == shape.parameters


def test_adapter_parameters_are_those_of_the_model():
    model = LoraModel(llama(SMALL), LoraSettings(rank=3, target_modules="q_proj,v_proj"), (), 0)
    assert sum(tensor.numel() for tensor in model.initial.values()) == SMALL.adapter(3)


def test_kept_activations_are_those_that_autograd_keeps():
    tokens = 16

    def kept(layers):
        shape = Shape(**{**SMALL.__dict__, "layers": layers})
        model = get_peft_model(
            llama(shape).to(torch.bfloat16),
            LoraConfig(r=8, target_modules=["q_proj", "v_proj"]),
        ).train()
        frozen = {at.untyped_storage().data_ptr() for at in model.parameters()}
        storages = {}

        def keep(tensor):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in frozen:
                storages[storage.data_ptr()] = (storage.nbytes(), tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model(input_ids=torch.zeros(1, tokens, dtype=torch.long))
        return sum(size for size, _ in storages.values()) / tokens

    assert kept(2) - kept(1) == pytest.approx(SMALL.kept, rel=0.02)


def test_what_a_preset_needs_grows_with_its_settings():
    preset = compose_settings(["experiment=commonsense-llama"]).to_flat()
    base = need(from_flat(preset), LLAMA_3_2_3B)
    longer = need(from_flat({**preset, "data.max-tokens": 512}), LLAMA_3_2_3B)
    assert longer.training == 2 * base.training
    assert longer.scoring == 2 * base.scoring
    assert longer.peak > base.peak
    rounds = need(from_flat({**preset, "federation.rounds": 100}), LLAMA_3_2_3B)
    assert (rounds.peak, rounds.scoring) == (base.peak, base.scoring)
    # 100 · 10 + 300 steps against 50 · 10 + 300, plus the same gradient passes.
    assert rounds.training / base.training == pytest.approx(1300 / 800, rel=0.01)
    assert base.weights == pytest.approx(2 * 3.21, abs=0.01)


def test_every_data_set_has_its_number_of_options():
    assert set(OPTIONS) == set(BENCHMARKS)


def test_the_table_and_the_headers_say_what_is_computed():
    root = Path(__file__).parents[3]
    assert table() in (root / "docs/guides/language-models.md").read_text()
    for preset in PRESETS:
        found = need(compose_settings([f"experiment={preset}"]), LLAMA_3_2_3B)
        header = (root / f"conf/experiment/{preset}.yaml").read_text()
        assert f"{found.peak:.0f} GB and {found.hours:.1f} hours" in header
