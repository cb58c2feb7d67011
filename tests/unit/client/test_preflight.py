"""Before round 1 all that a client will do is tried once; nothing is changed by it."""

import copy
import json
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from architectures import SIZES, write_image_model, write_text_model, write_word_tokenizer
from PIL import Image
from tiny_llama import make_tiny_llama
from tiny_models import WORDS
from torch import nn
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    MraConfig,
    MraForSequenceClassification,
)

from potara_flwr import client_app
from potara_flwr.client.preflight import preflight
from potara_flwr.command.checks import material
from potara_flwr.core.errors import SettingsError, StorageError
from potara_flwr.in_process import run_in_process
from potara_flwr.methods import METHODS
from potara_flwr.results.folder import read_results
from potara_flwr.run_config import from_flat
from potara_flwr.tasks.workbench import Workbench, workbench


def tried(settings, folder=None):
    bench = Workbench(settings)
    preflight(bench, bench.client(0), folder)
    return bench


def refused(settings, match):
    """Check that describing the client and the doctor both refuse, in one line."""
    with pytest.raises(SettingsError, match=match) as error:
        tried(settings)
    assert "\n" not in str(error.value)
    hub = material.Hub()
    data = material.check_data(settings, hub)
    check = data if data.state == "fail" else material.check_preflight(settings)
    assert check.state == "fail"
    assert check.found == str(error.value)
    assert check.remedy


def test_nothing_is_changed(tiny, tmp_path):
    settings = tiny({"lora.dropout": 0.3})
    bench = Workbench(settings)
    data = bench.client(0)
    state = {name: at.clone() for name, at in bench.model.module.state_dict().items()}
    initial = copy.deepcopy(bench.model.initial)
    samples = copy.deepcopy(data)
    random = torch.get_rng_state()
    apart = bench.model.keeps_samples_apart
    preflight(bench, data, tmp_path)
    assert torch.equal(torch.get_rng_state(), random)
    assert list(tmp_path.iterdir()) == []
    assert all(torch.equal(at, initial[name]) for name, at in bench.model.initial.items())
    assert all(torch.equal(at, state[name]) for name, at in bench.model.module.state_dict().items())
    for part in ("train", "calibration", "test"):
        for name, tensor in getattr(samples, part).items():
            assert torch.equal(tensor, getattr(data, part)[name])
    assert not bench.model.module.training
    assert bench.model.keeps_samples_apart is apart


def test_a_run_has_the_same_bits_without(tiny, tmp_path, monkeypatch):
    found = []
    for name in ("with", "without"):
        workbench(from_flat({}))  # forgets what the first run has loaded
        run_in_process(tiny({"run.results": str(tmp_path / name), "run.report": False}))
        found.append({
            str(file.relative_to(tmp_path / name)): file.read_bytes()
            for file in (tmp_path / name).rglob("adapter_model.safetensors")
        })  # fmt: skip
        monkeypatch.setattr(client_app, "preflight", lambda *_: None)
    assert len(found[0]) == 7
    assert found[0] == found[1]
    results = [read_results(tmp_path / name) for name in ("with", "without")]
    assert results[0]["federated_sha256"] == results[1]["federated_sha256"]


def write_texts(folder):
    rows = [
        {"text": " ".join(WORDS[: 1 + number % 7]), "label": ("neg", "pos")[number % 2]}
        for number in range(40)
    ]
    place = folder / "texts.jsonl"
    place.write_text("\n".join(map(json.dumps, rows)))
    return place


def text_settings(folder, model, **more):
    return from_flat({
        "task.name": "text-classification", "task.model": str(model), "data.num-clients": 2,
        "data.partition": "iid", "data.path": str(write_texts(folder)), "calibration.samples": 4,
        **more,
    })  # fmt: skip


def added_padding(folder):
    """Write a tokenizer with a token for padding that the model has no embedding for."""
    size = write_word_tokenizer(
        folder, ("<|endoftext|>",), eos_token="<|endoftext|>", unk_token="<|endoftext|>",
        pad_token="[PAD]",
    )  # fmt: skip
    return size


def test_a_padding_token_that_the_model_has_no_embedding_for(tmp_path):
    model = write_text_model(tmp_path / "gpt", "gpt2", tokenizer=added_padding)
    refused(text_settings(tmp_path, model), r"the token '\[PAD\]' \(number 41\).*resize_token_emb")


def test_a_tokenizer_that_cannot_pad(tmp_path):
    model = write_text_model(
        tmp_path / "bert", "bert",
        tokenizer=lambda folder: write_word_tokenizer(folder, ("[UNK]",), unk_token="[UNK]"),
    )  # fmt: skip
    refused(text_settings(tmp_path, model), "no token for padding.*set tokenizer.pad_token")


def test_a_model_that_says_no_padding_id_is_found_by_a_padded_batch(tmp_path, monkeypatch):
    folder = write_text_model(tmp_path / "gpt", "gpt2")

    def without(settings, num_classes):
        config = GPT2Config.from_pretrained(folder, pad_token_id=None, num_labels=num_classes)
        return GPT2ForSequenceClassification.from_pretrained(folder, config=config)

    monkeypatch.setattr("potara_flwr.tasks.text_classification.load_text_classifier", without)
    settings = text_settings(tmp_path, folder)
    with pytest.raises(SettingsError, match=r"cannot score a padded batch .*padding token"):
        tried(settings)


def image_settings(folder, model, **more):
    for number in range(40):
        place = folder / "images" / "ab"[number % 2] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20 + number % 3, 24), (number * 6, 9, 200)).save(place)
    return from_flat({
        "task.name": "image-classification", "task.model": str(model), "data.num-clients": 2,
        "data.partition": "iid", "data.path": str(folder / "images"), "calibration.samples": 4,
        **more,
    })  # fmt: skip


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"size": {"height": 16, "width": 16}}, r"cannot take an optimizer step .*16"),
        ({"do_resize": False}, "image processor cannot be used: .*shape"),
        ({"image_mean": [0.5]}, "image processor cannot be used"),
        ({"image_processor_type": "NoSuchImageProcessor"}, "not a readable image processor"),
    ],
)
def test_an_image_processor_that_cannot_be_used(change, match, tmp_path):
    model = write_image_model(tmp_path / "vit", "vit")
    file = model / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    refused(image_settings(tmp_path, model), match)


@pytest.mark.parametrize("method", ["feddpa_f", "feddpa_t", "fedalt"])
def test_methods_that_weigh_two_adapters_want_linear_modules(method, tmp_path):
    settings = image_settings(tmp_path, write_image_model(tmp_path / "resnet", "resnet"))
    tried(settings)
    refused(
        settings.model_copy(update={"method": method}),
        r"weighs two adapters in linear modules, but .*convolution\.lora_A is a Conv2d; choose "
        r"another method, or others in lora\.target-modules$",
    )


def test_a_model_that_does_not_compute_with_weights_of_a_smaller_type(tmp_path):
    model = write_text_model(tmp_path / "xlnet", "xlnet")
    refused(
        text_settings(tmp_path, model, **{"model.dtype": "bfloat16"}),
        r"cannot take an optimizer step .*BFloat16\); its layers do not all compute with these "
        r"weights; set model\.dtype=float32$",
    )


@pytest.mark.parametrize("method", ["feddpa_f", "feddpa_t"])
def test_methods_that_weigh_by_sample_want_whole_batches(method, tmp_path):
    bench = SimpleNamespace(
        padding_side="right", parameters={}, module=SimpleNamespace(get_base_model=dict)
    )
    with pytest.raises(SettingsError, match="a dict, which takes padding for text, writes samples"):
        METHODS[method].check(bench)
    METHODS["fedalt"].check(bench)
    bench.padding_side = "left"
    METHODS[method].check(bench)


def test_a_layer_that_others_look_into_cannot_be_adapted(tmp_path):
    # Its padding is computed from a convolution's stride, which a wrapped one does not have.
    model = write_image_model(tmp_path / "mobilenet", "mobilenet_v2", tf_padding=True)
    refused(
        image_settings(tmp_path, model),
        r"cannot take an optimizer step .*'stride'\); name other modules in lora.target-modules",
    )


def test_an_adapter_that_reaches_nothing(tmp_path):
    # Without a GPU what MRA attends to is left out, and so is what an adapter adds to it.
    size = write_word_tokenizer(tmp_path / "mra")
    config = MraConfig(vocab_size=size, pad_token_id=0, max_position_embeddings=64, **SIZES)
    MraForSequenceClassification(config).save_pretrained(tmp_path / "mra")
    refused(
        text_settings(tmp_path, tmp_path / "mra"),
        r"what an adapter adds to query, value of task\.model .* does not reach its output; name "
        r"other modules in lora\.target-modules, e\.g\. all-linear$",
    )
    tried(text_settings(tmp_path, tmp_path / "mra", **{"lora.target-modules": "all-linear"}))


def test_a_missing_image_processor(tmp_path):
    model = write_image_model(tmp_path / "vit", "vit")
    (model / "preprocessor_config.json").unlink()
    refused(image_settings(tmp_path, model), "not a readable image processor")


class Counting(nn.Module):
    """A layer that counts its batches in training."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, states):
        if self.training:
            self.count += 1
        return states


@contextmanager
def watched(bench, hook):
    """Let something happen before the head of a model, which other tests may share."""
    handle = bench.model.module.get_base_model().classifier.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def test_a_model_that_changes_in_training(bench):
    vit = bench.model.module.get_base_model().vit
    vit.counting = Counting()
    try:
        with (
            watched(bench, lambda *_: [vit.counting(torch.zeros(1)), None][1]),
            pytest.raises(SettingsError, match=r"changes \S*counting.count in training"),
        ):
            preflight(bench, bench.client(0))
    finally:
        del vit.counting


def test_a_step_that_fails(bench):
    def fails(*_):
        raise NotImplementedError("no backward\npass here")

    with (
        watched(bench, fails),
        pytest.raises(SettingsError, match=r"cannot take an optimizer step .*no backward pass"),
    ):
        preflight(bench, bench.client(0))


def test_a_gradient_that_cannot_be_taken(bench, monkeypatch):
    def fails(*_):
        raise RuntimeError("vit.layer.0 mixes the samples")

    monkeypatch.setattr("potara_flwr.client.preflight.per_sample_gradients", fails)
    with pytest.raises(SettingsError, match=r"cannot give the gradient .*vit\.layer\.0"):
        preflight(bench, bench.client(0))


def test_an_adapter_that_cannot_be_saved(bench, monkeypatch, tmp_path):
    def other(folder):
        return {"another": torch.zeros(1)}

    monkeypatch.setattr("potara_flwr.client.preflight.load_adapter", other)
    with pytest.raises(SettingsError, match=r"cannot be saved .*not what was written"):
        preflight(bench, bench.client(0))
    with pytest.raises(StorageError, match="cannot be written"):
        preflight(bench, bench.client(0), tmp_path / "nowhere")


@pytest.mark.parametrize("task", ["multiple-choice", "instruction"])
def test_language_models(task, tmp_path):
    rows = [
        {"prompt": f"Is it {'so' * (number % 4)}?", "answer": "yes", "options": ["yes", "no"]}
        for number in range(40)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = from_flat({
        "task.name": task, "task.model": str(make_tiny_llama(tmp_path / "llama")),
        "data.path": str(tmp_path / "rows.jsonl"), "data.partition": "iid", "data.num-clients": 2,
        "data.options-column": "options" if task == "multiple-choice" else "",
        "calibration.samples": 4, "task.max-new-tokens": 3,
    })  # fmt: skip
    tried(settings)
    assert material.check_preflight(settings).state == "ok"
