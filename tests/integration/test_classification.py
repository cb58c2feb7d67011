"""The tiny variants of the classification presets through the whole pipeline, offline."""

import pandas as pd
import pytest
import torch
import transformers
from peft import PeftModel
from tiny_models import (
    make_tiny_bert,
    make_tiny_cifar,
    make_tiny_digits_vit,
    make_tiny_vit,
    sentences,
)

from potara_flwr.in_process import run_in_process
from potara_flwr.models.adapter import kind_of
from potara_flwr.models.lora import load_adapter
from potara_flwr.results.folder import read_results
from potara_flwr.run_config import from_flat
from potara_flwr.running.composition import compose_settings
from potara_flwr.tasks import TASKS
from potara_flwr.tasks.workbench import Workbench

pytestmark = pytest.mark.integration


def preset_values(name):
    """Return the settings of a preset by their flat names."""
    return compose_settings([f"experiment={name}"]).to_flat()


def make_sentences(folder):
    table = pd.DataFrame(sentences())
    folder.mkdir()
    table.to_parquet(folder / "sentences.parquet")
    return folder / "sentences.parquet"


HEAD = "base_model.model.classifier.weight"
PRESETS = {
    "digits": (make_tiny_digits_vit, None, 10),
    "paper": (make_tiny_digits_vit, None, 10),
    "cifar100-vit": (make_tiny_vit, make_tiny_cifar, 5),
    "sentiment": (make_tiny_bert, make_sentences, 3),
}


@pytest.fixture
def settings_of(tmp_path):
    """Build the settings of a tiny preset with a model and data made here."""

    def build(name, overrides=None):
        make_model, make_data, _ = PRESETS[name]
        made = {"task.model": tmp_path / "model"}
        if not made["task.model"].exists():
            make_model(made["task.model"])
        if make_data is not None:
            made["data.path"] = tmp_path / "data"
            if not made["data.path"].exists():
                make_data(made["data.path"])
        if name == "sentiment":
            made["data.path"] /= "sentences.parquet"
        texts = {setting: str(place) for setting, place in made.items()}
        return from_flat(
            {**preset_values(f"{name}-tiny"), **texts, "run.report": False,
             "run.results": str(tmp_path / "run"), **(overrides or {})}
        )  # fmt: skip

    return build


@pytest.mark.parametrize("name", PRESETS)
def test_a_tiny_preset_differs_from_the_real_one_in_sizes_alone(name):
    real, tiny = (compose_settings([f"experiment={preset}"]) for preset in (name, f"{name}-tiny"))
    sizes = {
        "task.model", "data.path", "data.num-clients", "data.alpha", "data.train-samples",
        "data.test-samples", "lora.rank", "lora.alpha", "train.batch-size", "train.learning-rate",
        "train.local-steps", "federation.rounds", "federation.baseline-rounds",
        "federation.timeout", "local.steps",
        "calibration.samples",
    }  # fmt: skip
    differing = {at for at, value in tiny.to_flat().items() if real.to_flat()[at] != value}
    assert differing <= sizes


@pytest.mark.parametrize("name", PRESETS)
def test_a_tiny_preset_runs_and_its_adapters_load_as_their_cards_say(name, settings_of):
    settings = settings_of(name)
    folder = run_in_process(settings)
    results = read_results(folder)
    assert results["refused"] == results["missing"] == []
    assert len(results["clients"]) == settings.data.num_clients
    bench = Workbench(settings)
    auto_class = getattr(transformers, TASKS[settings.task.name].auto_class)
    for client in results["clients"][:2]:
        place = folder / "clients" / str(client["client"])
        card = (place / "README.md").read_text()
        classes = PRESETS[name][2]
        assert f"    num_labels={classes},\n" in card
        base = auto_class.from_pretrained(
            settings.task.model, num_labels=classes, ignore_mismatched_sizes=True
        )
        model = PeftModel.from_pretrained(base, str(place)).eval()
        batch = bench.task.collate(bench.client(client["client"]).test)
        labels = batch["labels"]
        with torch.no_grad():
            inputs = {key: tensor for key, tensor in batch.items() if key != "labels"}
            logits = model(**inputs).logits
            torch.testing.assert_close(logits, bench.model(load_adapter(place), batch))
        accuracy = (logits.argmax(-1) == labels).float().mean()
        assert accuracy == pytest.approx(client["personalized"]["accuracy"])


def test_local_heads_stay_on_their_clients(settings_of):
    settings = settings_of("sentiment", {"task.head": "local"})
    folder = run_in_process(settings)
    federated = load_adapter(folder / "federated")
    assert {kind_of(name) for name in federated} == {"A", "B"}
    results = read_results(folder)
    assert results["refused"] == []
    size = sum(tensor.numel() * 4 for tensor in federated.values())
    trained = [m for m in results["communication"]["messages"] if m["kind"] == "train"]
    assert trained
    for message in trained:
        assert size < message["bytes_up"] < size + 12_000
    heads = [
        load_adapter(folder / "clients" / str(client["client"]))[
            "base_model.model.classifier.weight"
        ]
        for client in results["clients"]
    ]
    assert all(not torch.equal(heads[0], head) for head in heads[1:])
