"""A card's code, run as it stands, loads what was saved, whatever the architecture."""

import json
import warnings

import datasets
import pytest
import torch
from architectures import IMAGE, TEXT, write_image_model, write_text_model
from huggingface_hub import ModelCard
from PIL import Image
from tiny_models import WORDS

from potara_flwr.results.saving import save_with_card
from potara_flwr.run_config import from_flat
from potara_flwr.tasks.workbench import Workbench
from potara_flwr.training.local_steps import evaluate, train
from simulations.cards import score_card

CLASSES = ("no", "yes, it's")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def settings_of(folder, name, dtype, **how):
    values = {
        "data.num-clients": 1, "data.partition": "iid", "calibration.samples": 2, "lora.rank": 2,
        "train.batch-size": 4, "train.learning-rate": 0.05, "model.dtype": dtype,
    }  # fmt: skip
    if name in IMAGE:
        for number in range(20):
            place = folder / "data" / CLASSES[number % 2] / f"{number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            colour = (number * 12, 240 - number * 9, 30 + number % 5)
            Image.new("RGB", (20, 24), colour).save(place)
        model, task = write_image_model(folder / "model", name), "image-classification"
        values["data.path"] = str(folder / "data")
    else:
        rows = [
            {"text": " ".join(WORDS[number % 9 : number % 9 + 1 + number % 7]),
             "label": CLASSES[number % 2]}
            for number in range(24)
        ]  # fmt: skip
        (folder / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
        model, task = write_text_model(folder / "model", name, **how), "text-classification"
        values["data.path"] = str(folder / "data.jsonl")
    return from_flat({**values, "task.name": task, "task.model": str(model)})


def check(folder, name, dtype="float32", tolerance=1e-4, **how):
    settings = settings_of(folder, name, dtype, **how)
    bench = Workbench(settings)
    data = bench.client(0)
    model = bench.model_for(data)
    adapter, _ = train(
        model, bench.task, model.initial, data.train, settings.train, steps=3, seed=0, who="test"
    )
    told = evaluate(model, bench.task, adapter, data.test)
    assert told != evaluate(model, bench.task, model.initial, data.test)
    place = folder / "saved"
    save_with_card(place, adapter, model, settings, place, "# An adapter\n", data.classes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        card = score_card(place, bench, 0)
    assert card.names["model"].config.id2label == dict(enumerate(CLASSES))
    assert card.names["base"].dtype == getattr(torch, dtype)
    assert card.loss == pytest.approx(told.loss, rel=tolerance)
    assert card.accuracy == pytest.approx(told.accuracy)


@pytest.mark.parametrize("name", IMAGE | TEXT)
def test_the_code_gives_the_numbers(name, tmp_path):
    check(tmp_path, name)


@pytest.mark.parametrize("name", ["vit", "resnet", "deberta-v2", "llama", "gpt2"])
def test_in_bfloat16_to_rounding(name, tmp_path):
    check(tmp_path, name, "bfloat16", 2e-2)


def test_a_pooler_that_the_checkpoint_lacks_is_made_as_in_the_run(tmp_path):
    check(tmp_path, "bert", auto_class="AutoModelForMaskedLM")


@pytest.mark.parametrize("on_hub", [False, True])
def test_the_hub_reads_what_the_card_tells(tmp_path, on_hub):
    settings = settings_of(tmp_path, "bert", "float32")
    (tmp_path / "model" / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
    if on_hub:
        task = settings.task.model_copy(update={"model_name": "google-bert/bert-base-uncased"})
        settings = settings.model_copy(update={"task": task})
    bench = Workbench(settings)
    data = bench.client(0)
    model, place = bench.model_for(data), tmp_path / "adapter"
    card = "# Adapter of client 0\n"
    save_with_card(
        place, model.initial, model, settings, place, card, data.classes, accuracy=0.87654
    )
    read = ModelCard.load(place / "README.md")
    told, name = read.data.to_dict(), "google-bert/bert-base-uncased"
    assert told["library_name"] == "peft"
    assert told["pipeline_tag"] == "text-classification"
    assert told["license"] == "mit"
    assert told.get("base_model") == (name if on_hub else None)
    assert read.data.model_name == "Adapter of client 0"
    (scored,) = read.data.eval_results
    assert (scored.metric_type, scored.metric_value) == ("accuracy", 0.8765)
    assert f"hf upload USER/NAME {place}" in read.text
    config = json.loads((place / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == (name if on_hub else str(tmp_path / "model"))
    assert config["task_type"] == "SEQ_CLS"
