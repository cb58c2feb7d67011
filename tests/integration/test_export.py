"""``potara export``: what is exported loads without this package and gives the results' numbers."""

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import transformers
from architectures import write_image_model, write_text_model
from coloured_images import write_coloured_images
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file
from tiny_llama import make_tiny_llama

from potara_flwr.command.main import main
from potara_flwr.core.errors import SettingsError, StorageError
from potara_flwr.export import export_results
from potara_flwr.in_process import run_in_process
from potara_flwr.results.folder import read_results
from potara_flwr.run_config import from_flat
from potara_flwr.tasks.workbench import Workbench

pytestmark = pytest.mark.integration

SMALL = {
    "data.num-clients": 2, "data.partition": "iid", "federation.rounds": 1,
    "train.local-steps": 4, "local.steps": 6, "calibration.samples": 4, "train.batch-size": 4,
    "train.learning-rate": 0.02, "data.max-tokens": 16, "run.report": False,
    "merge.compare": False, "merge.space": "delta",
}  # fmt: skip
CLASSES = ("cold", "it's flu", "none")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


class Plain:
    """A model of transformers as a task calls it."""

    def __init__(self, model):
        self.model = model

    @torch.no_grad()
    def __call__(self, batch):
        kept = {name: at for name, at in batch.items() if not name.startswith("labels")}
        return self.model(
            **{name: at if at.ndim else at.item() for name, at in kept.items()}
        ).logits


def check_merged(settings, folder, out, kind, tolerance=1e-4):
    """Compare what plain models give with the results; return them by client."""
    bench, models = Workbench(settings), {}
    for entry in read_results(folder)["clients"]:
        place = out / f"client-{entry['client']}"
        model = getattr(transformers, bench.task.auto_class).from_pretrained(place).eval()
        assert type(model).__name__ == kind
        test = bench.client(entry["client"]).test
        losses, scores = bench.task.scores(Plain(model), test)
        told = entry["personalized"]
        assert losses.double().mean().item() == pytest.approx(told["loss"], rel=tolerance)
        assert scores.double().mean().item() == pytest.approx(told["accuracy"])
        models[entry["client"]] = model
    return models


def test_texts_with_a_pooler_made_by_the_seed(tmp_path, capsys):
    draws = np.random.default_rng(0)
    rows = [
        {"text": " ".join(f"w{number % 3 * 8 + draws.integers(8)}" for _ in range(1 + number % 9)),
         "label": CLASSES[number % 3]} for number in range(60)
    ]  # fmt: skip
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = write_text_model(tmp_path / "model", "bert", "AutoModelForMaskedLM")
    settings = from_flat({
        **SMALL, "task.name": "text-classification", "task.head": "local", "seed": 3,
        "task.model": str(model), "data.path": str(tmp_path / "texts.jsonl"),
        "federation.nodes": "north,south", "run.results": str(tmp_path / "run"),
    })  # fmt: skip
    folder = run_in_process(settings)
    words = ["export", str(folder), "--format", "merged"]
    assert main([*words, "--out", str(tmp_path / "models")]) == 0
    assert capsys.readouterr().out == f"exported to {tmp_path / 'models'}: north, south\n"
    for number, name in enumerate(("north", "south")):
        (tmp_path / "models" / name).rename(tmp_path / "models" / f"client-{number}")
    models = check_merged(settings, folder, tmp_path / "models", "BertForSequenceClassification")
    for number, plain in models.items():
        assert plain.config.id2label == dict(enumerate(CLASSES))
        assert plain.config.label2id == {name: at for at, name in enumerate(CLASSES)}
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            tmp_path / "models" / f"client-{number}"
        )
        assert tokenizer("w3 w5")["input_ids"] == [5, 7]
        said = transformers.pipeline("text-classification", plain, tokenizer=tokenizer)("w3 w5")
        assert said[0]["label"] in CLASSES
    # Adapters: one client, by another name of the base, in half the bytes.
    half = tmp_path / "half"
    export_results(folder, half, clients=[1], base_name="org/base", dtype="float16")
    assert [place.name for place in half.iterdir()] == ["south"]
    place = half / "south"
    assert {file.name for file in place.iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "classes.json"
    }  # fmt: skip
    config, before = (
        json.loads((at / "adapter_config.json").read_text())
        for at in (place, folder / "clients" / "1")
    )
    assert config == before | {"base_model_name_or_path": "org/base"}
    tensors = load_file(place / "adapter_model.safetensors")
    whole = load_file(folder / "clients" / "1" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    assert all(torch.equal(tensors[name], whole[name].half()) for name in whole)
    # The base model is elsewhere now.
    model.rename(tmp_path / "moved")
    with pytest.raises(SettingsError, match="say where it is now: --model FOLDER"):
        export_results(folder, tmp_path / "no", form="merged")
    assert not (tmp_path / "no").exists()
    export_results(
        folder / "clients" / "0", tmp_path / "one", form="merged", model=str(tmp_path / "moved")
    )
    again = load_file(tmp_path / "one" / "north" / "model.safetensors")
    first = load_file(tmp_path / "models" / "client-0" / "model.safetensors")
    assert all(torch.equal(again[name], first[name]) for name in first)


def test_images_with_normalization_in_the_head(tmp_path):
    images = write_coloured_images(tmp_path / "images", CLASSES, 48)
    settings = from_flat({
        **SMALL, "task.name": "image-classification", "data.path": str(tmp_path / "images"),
        "task.model": str(write_image_model(tmp_path / "model", "levit")), "method": "fedit_ft",
        "run.results": str(tmp_path / "run"),
    })  # fmt: skip
    folder = run_in_process(settings)
    export_results(folder, tmp_path / "models", form="merged")
    models = check_merged(settings, folder, tmp_path / "models", "LevitForImageClassification")
    assert models[0].config.id2label == dict(enumerate(CLASSES))
    processor = transformers.AutoImageProcessor.from_pretrained(
        tmp_path / "models" / "client-0", backend="pil"
    )
    pixels = processor(Image.open(images / CLASSES[0] / "0.png"), return_tensors="pt")[
        "pixel_values"
    ]
    assert pixels.shape == (1, 3, 32, 32)


def test_language_models(tmp_path):
    rows = [
        {"prompt": f"Which of these is good, {number % 3}? Answer:", "options": ["yes", "no"],
         "answer": number % 2} for number in range(48)
    ]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = from_flat({
        **SMALL, "task.name": "multiple-choice", "data.options-column": "options",
        "task.model": str(make_tiny_llama(tmp_path / "model")), "data.max-tokens": 64,
        "data.path": str(tmp_path / "rows.jsonl"), "run.results": str(tmp_path / "run"),
    })  # fmt: skip
    folder = run_in_process(settings)
    (tmp_path / "model" / "tokenizer.model").write_text("words")
    export_results(folder, tmp_path / "models", form="merged")
    check_merged(settings, folder, tmp_path / "models", "LlamaForCausalLM")
    export_results(folder, tmp_path / "half", form="gguf-ready", clients=[1])
    (place,) = (tmp_path / "half").iterdir()
    assert json.loads((place / "config.json").read_text())["dtype"] == "float16"
    tensors = load_file(place / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    assert not any("lora" in name for name in tensors)
    assert {"tokenizer.json", "tokenizer_config.json", "tokenizer.model"} <= {
        file.name for file in place.iterdir()
    }
    # An adapter of half the bytes still is one.
    export_results(folder, tmp_path / "adapters", dtype="bfloat16")
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    adapted = PeftModel.from_pretrained(base, tmp_path / "adapters" / "client-1").eval()
    prompt = torch.tensor([[0, 5, 9, 12]])
    merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "models" / "client-1")
    with torch.no_grad():
        logits = merged.eval()(prompt).logits
        assert torch.allclose(adapted(prompt).logits, logits, atol=0.05)
        plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
        assert not torch.allclose(plain(prompt).logits, logits, atol=0.05)


def test_what_cannot_be_exported_is_one_line(run_of, tmp_path, capsys):
    folder, two = run_of("potara").folder, run_of("fedalt").folder
    (tmp_path / "there").mkdir()
    new, there = ["--out", str(tmp_path / "new")], ["--out", str(tmp_path / "there")]
    for words, said in (
        ([str(folder), *there], "is there already; name a new folder"),
        ([str(tmp_path / "nowhere"), *new], "there is no folder"),
        ([str(tmp_path), *new], "run.json cannot be read"),
        ([str(folder), *new, "--clients", "0,7"], "there is no client 7 in"),
        ([str(folder), *new, "--clients", "a"], "--clients is 'a'; write their numbers"),
        ([str(folder), *new, "--format", "gguf-ready"], "task.name=digits trains a classifier"),
        ([str(folder), *new, "--format", "merged", "--base-name", "x"], "--base-name is for peft"),
        ([str(folder / "clients" / "0"), *new, "--clients", "0"], "leave out --clients"),
        ([str(two / "clients" / "0"), *new], "parts that run together (local, mixer"),
        ([str(two), *new], "parts that run together (local, mixer.safetensors, rest-of-world"),
    ):
        assert main(["export", *words]) == 1
        stream = capsys.readouterr()
        assert stream.err.startswith("error: ")
        assert stream.err.count("\n") == 1
        assert said in stream.err
        assert [place.name for place in tmp_path.iterdir()] == ["there"]


def test_all_or_nothing(run_of, tmp_path, monkeypatch):
    folder = run_of("potara").folder
    written = []
    before = Path.write_bytes

    def full(place, data):
        written.append(place)
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        return before(place, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StorageError, match="No space left"):
        export_results(folder, tmp_path / "new")
    assert len(written) == 2
    assert not list(tmp_path.iterdir())
