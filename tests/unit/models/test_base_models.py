"""Base models: type, device, checkpoints, heads, target modules, padding."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_llama import make_tiny_llama
from tiny_models import make_tiny_bert
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    GPT2Config,
    LlamaConfig,
    RobertaConfig,
)

from potara_flwr.core.errors import SettingsError
from potara_flwr.merging.traces import variance_traces
from potara_flwr.methods import METHODS
from potara_flwr.methods.potara import merge_by_evidence
from potara_flwr.models import base_models
from potara_flwr.models.adapter import kind_of
from potara_flwr.models.architecture import find_head, target_modules
from potara_flwr.models.base_models import find_device, load_causal_lm, load_text_classifier
from potara_flwr.models.lora import LoraModel
from potara_flwr.models.pretrained import load_tokenizer, tokenizer_of
from potara_flwr.run_config import from_flat
from potara_flwr.tasks.base import ClientData
from potara_flwr.tasks.workbench import Workbench
from potara_flwr.training.gradients import per_sample_gradients
from potara_flwr.training.local_steps import evaluate, train

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
         "intermediate_size": 24, "vocab_size": 50}  # fmt: skip


def trained(bench, steps=4, model=None):
    return train(
        model or bench.model, bench.task, (model or bench.model).initial, bench.client(0).train,
        bench.settings.train, steps=steps, seed=0, who="client 0",
    )  # fmt: skip


def test_a_bfloat16_model_trains_float32_adapters_with_finite_traces(tiny):
    bench = Workbench(tiny({"model.dtype": "bfloat16"}))
    base = bench.model.module.get_base_model().vit.embeddings.patch_embeddings.projection
    assert base.weight.dtype == torch.bfloat16
    adapter, loss = trained(bench, steps=6)
    assert all(tensor.dtype == torch.float32 for tensor in adapter.values())
    _, exact_loss = trained(Workbench(tiny()), steps=6)
    assert loss == pytest.approx(exact_loss, rel=0.05)
    assert loss != exact_loss
    calibration = bench.client(0).calibration
    first, second = (
        per_sample_gradients(bench.model, bench.task, at, calibration)
        for at in (bench.model.initial, adapter)
    )
    assert all(g.dtype == torch.float32 for g in second.gradients.values())
    traces = variance_traces(first.gradients, second.gradients, 1e-2)
    assert 0 < traces.cross <= min(traces.federated, traces.local) < float("inf")


@pytest.mark.parametrize(
    ("make", "load", "cut"),
    [
        (make_tiny_bert, lambda s: load_text_classifier(s, 3), "bert.encoder.layer.1."),
        (make_tiny_llama, load_causal_lm, "model.layers.1."),
    ],
)
def test_a_model_without_some_of_its_pretrained_weights_is_refused(make, load, cut, tmp_path):
    settings = from_flat({"task.model": str(make(tmp_path / "model"))})
    load(settings)
    file = tmp_path / "model" / "model.safetensors"
    left = {name: w for name, w in load_file(file).items() if not name.startswith(cut)}
    save_file(left, file, metadata={"format": "pt"})
    with pytest.raises(SettingsError, match=rf"lacks weights .*: {re.escape(cut)}"):
        load(settings)


def test_an_encoder_is_no_causal_language_model(tmp_path):
    settings = from_flat({"task.model": str(make_tiny_bert(tmp_path / "bert"))})
    with pytest.raises(SettingsError, match=r"an encoder \(bert\)"):
        load_causal_lm(settings)


def test_a_tokenizer_whose_rules_change_is_another_one(tmp_path):
    folder = make_tiny_bert(tmp_path / "bert")
    version = tokenizer_of(str(folder))[1]
    file = folder / "tokenizer.json"
    rules = json.loads(file.read_text()) | {"normalizer": {"type": "Lowercase"}}
    file.write_text(json.dumps(rules))
    tokenizer_of.cache_clear()
    assert tokenizer_of(str(folder))[1] != version


def test_a_decoder_classifies_at_the_last_token_that_its_tokenizer_does_not_pad(tmp_path):
    folder = make_tiny_llama(tmp_path / "llama")
    config = json.loads((folder / "config.json").read_text()) | {"pad_token_id": 7}
    (folder / "config.json").write_text(json.dumps(config))
    model = load_text_classifier(from_flat({"task.model": str(folder)}), 3)
    assert model.config.pad_token_id == load_tokenizer(str(folder)).pad_token_id != 7


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_checkpointing_changes_no_gradient(tiny, dropout):
    plain = Workbench(tiny({"lora.dropout": dropout}))
    saving = Workbench(tiny({"lora.dropout": dropout, "model.gradient-checkpointing": True}))
    vit = saving.model.module.get_base_model()
    assert vit.is_gradient_checkpointing
    expected, loss = trained(plain)
    found, same_loss = trained(saving)
    assert same_loss == pytest.approx(loss, rel=1e-5)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-6)


def test_two_adapters_in_one_checkpointed_backward_pass(tiny):
    # The checkpoints of the first call must not see the tensors of the second.
    plain, saving = (Workbench(tiny({"model.gradient-checkpointing": on})) for on in (False, True))
    samples = plain.client(0).train
    adapters = [trained(plain, steps)[0] for steps in (2, 3)]
    gradients = []
    for bench in (plain, saving):
        leaves = [{n: t.clone().requires_grad_() for n, t in one.items()} for one in adapters]
        bench.model.module.train()
        total = sum(bench.model(one, samples).square().sum() for one in leaves)
        gradients.append(torch.autograd.grad(total, [t for one in leaves for t in one.values()]))
        bench.model.module.eval()
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("config", "targets", "head"),
    [
        (BertConfig(**SMALL), ["query", "value"], ("classifier",)),
        (RobertaConfig(**SMALL), ["query", "value"], ("classifier",)),
        (LlamaConfig(**SMALL, num_key_value_heads=2), ["q_proj", "v_proj"], ("score",)),
        (GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=50), ["c_attn"], ("score",)),
        (
            DistilBertConfig(dim=16, n_layers=2, n_heads=2, hidden_dim=24, vocab_size=50),
            ["q_lin", "v_lin"],
            ("pre_classifier", "classifier"),
        ),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_targets_and_heads_are_found_per_architecture(config, targets, head):
    config.pad_token_id = 0
    base = AutoModelForSequenceClassification.from_config(config)
    assert target_modules(base, "") == targets
    assert find_head(base) == head
    settings = from_flat({"lora.rank": 2})
    model = LoraModel(base, settings.lora, None, seed=0)
    batch = {"input_ids": torch.tensor([[5, 6, 7], [8, 9, 0]]),
             "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]])}  # fmt: skip
    assert model(model.initial, batch).shape == (2, 2)
    kinds = {kind_of(name) for name in model.initial}
    assert kinds == {"A", "B", "head"}


def test_without_a_target_or_a_head_a_model_is_refused():
    with pytest.raises(SettingsError, match="has no linear and no convolutional module"):
        target_modules(torch.nn.Sequential(), "")
    with pytest.raises(SettingsError, match="has no head"):
        find_head(torch.nn.Sequential())


def test_a_head_of_a_clients_own_classes_shares_the_model(tiny):
    bench = Workbench(tiny({"task.head": "local"}))
    data = bench.client(0)
    few = ClientData(0, *({**part, "labels": part["labels"] % 3}
                          for part in (data.train, data.calibration, data.test)),
                     classes=("a", "b", "c"))  # fmt: skip
    bench._clients[0, None] = few
    model = bench.model_for(few)
    assert model.module is bench.model.module
    assert bench.model_for(bench.client(1)) is bench.model
    heads = {name for name in model.initial if kind_of(name) == "head"}
    assert {model.initial[name].shape[0] for name in heads} == {3}
    for name, tensor in bench.model.initial.items():
        assert (name in heads) != torch.equal(tensor, model.initial[name][: len(tensor)])
    assert model(model.initial, few.test).shape[1] == 3
    again = Workbench(bench.settings).model.with_classes(3, bench.settings.seed)
    assert all(torch.equal(again.initial[name], model.initial[name]) for name in heads)
    federated, _ = trained(bench, model=model)
    personalized = merge_by_evidence(METHODS["potara"].client(bench, few), federated).adapters[""]
    assert {personalized[name].shape[0] for name in heads} == {3}
    assert evaluate(model, bench.task, personalized, few.test).loss > 0


def test_padding_is_on_the_right_with_the_end_of_text_where_there_is_nothing_else(tmp_path):
    folder = make_tiny_bert(tmp_path / "bert")
    tokenizer = load_tokenizer(str(folder))
    assert tokenizer.padding_side == "right"
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    with pytest.raises(SettingsError, match="no token for padding"):
        load_tokenizer(str(folder))
    tokenizer.eos_token = "w0"
    tokenizer.save_pretrained(folder)
    assert load_tokenizer(str(folder)).pad_token == "w0"


def test_a_decoder_without_padding_classifies_at_the_last_token_of_the_text(tmp_path):
    folder = make_tiny_bert(tmp_path / "llama")
    torch.manual_seed(0)
    config = LlamaConfig(**SMALL, num_key_value_heads=2, pad_token_id=None)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    model = load_text_classifier(from_flat({"task.model": str(folder)}), 3)
    pad = load_tokenizer(str(folder)).pad_token_id
    ids = torch.tensor([[5, 6, 7]])
    padded = torch.tensor([[5, 6, 7, pad, pad]])
    with torch.no_grad():
        alone = model(input_ids=ids).logits
        together = model(input_ids=padded, attention_mask=(padded != pad).long()).logits
    torch.testing.assert_close(alone, together)


@pytest.mark.parametrize("device", ["cuda", "cuda:7", "quantum"])
def test_a_device_that_is_not_there_is_one_clear_line(monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingsError, match=rf"model\.device is '{device}'") as error:
        find_device(from_flat({"model.device": device}).model)
    assert "\n" not in str(error.value)
    assert find_device(from_flat({}).model) == torch.device("cpu")


def test_quantization_says_what_it_lacks(monkeypatch, tiny):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    bench = Workbench(tiny({"model.quantize": "4bit"}))
    with pytest.raises(SettingsError, match="needs a CUDA GPU"):
        bench.task.load_base_model()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(SettingsError, match=r"potara-flwr\[quantized\]"):
        bench.task.load_base_model()


def test_four_bit_weights_are_made_on_the_device_of_the_settings(monkeypatch, tiny):
    settings = tiny({"model.quantize": "4bit", "model.device": "cuda:1"})
    model, asked = Workbench(tiny()).task.load_base_model(), {}

    class Loading:
        @staticmethod
        def from_pretrained(name, **options):
            asked.update(options)
            return model, {"missing_keys": [], "mismatched_keys": []}

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(base_models.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(base_models, "BitsAndBytesConfig", dict)
    monkeypatch.setattr(base_models, "find_device", lambda model: torch.device(model.device))
    base_models.load_pretrained(Loading, "model", settings)
    assert asked["device_map"] == {"": "cuda:1"}
    assert asked["quantization_config"]["bnb_4bit_quant_type"] == "nf4"


def test_attention_is_computed_as_it_is_asked_for(tiny):
    eager, chosen = Workbench(tiny({"model.attention": "eager"})), Workbench(tiny())
    implementations = [
        bench.model.module.get_base_model().config._attn_implementation for bench in (eager, chosen)
    ]
    assert implementations == ["eager", "sdpa"]
    samples = chosen.client(0).test
    torch.testing.assert_close(
        eager.model(eager.model.initial, samples), chosen.model(chosen.model.initial, samples)
    )


def test_attention_that_is_not_installed_is_one_clear_line(tiny):
    bench = Workbench(tiny({"model.attention": "flash_attention_2"}))
    words = r"^model\.attention does not fit .* installed"
    with pytest.raises(SettingsError, match=words) as error:
        bench.task.load_base_model()
    assert "\n" not in str(error.value)


def test_a_device_map_runs_the_same_model(tiny):
    settings = tiny({"model.device-map": "cpu"})
    mapped, plain = Workbench(settings), Workbench(tiny())
    samples = plain.client(0).test
    assert torch.equal(
        mapped.model(mapped.model.initial, samples), plain.model(plain.model.initial, samples)
    )


def test_an_architecture_without_checkpoints_says_so(tiny, monkeypatch):
    bench = Workbench(tiny())
    monkeypatch.setattr(type(bench.model.module.get_base_model()),
                        "supports_gradient_checkpointing", False)  # fmt: skip
    with pytest.raises(SettingsError, match=r"model\.gradient-checkpointing: ViT"):
        bench.model.checkpoint_gradients()


def test_a_language_model_has_no_head_of_its_own_making(tmp_path):
    folder = make_tiny_llama(tmp_path / "llama")
    config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(SettingsError, match=r"lacks weights .*: lm_head\.weight; is"):
        load_causal_lm(from_flat({"task.model": str(folder)}))
