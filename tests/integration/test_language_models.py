"""The tiny variants of the language-model presets, through the whole pipeline, offline."""

import json
import math
import os
import stat

import pytest
import torch
from hub_copies import write_copies
from peft import PeftModel
from safetensors.torch import load_file
from tiny_llama import make_tiny_llama
from transformers import AutoModelForCausalLM

from potara_flwr.in_process import run_in_process
from potara_flwr.results.run_file import ADAPTER_FILE
from potara_flwr.run_config import from_flat
from potara_flwr.running.composition import compose_settings
from potara_flwr.tasks import encoding
from potara_flwr.tasks.workbench import Workbench, workbench

pytestmark = pytest.mark.integration


def preset_values(name):
    """Return the settings of a preset by their flat names."""
    return compose_settings([f"experiment={name}"]).to_flat()


PRESETS = ("commonsense-llama", "flan-llama")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """The settings that name the random model and the folder of invented data sets."""
    folder = tmp_path_factory.mktemp("language")
    return {
        "task.model": str(make_tiny_llama(folder / "model")),
        "data.root": str(write_copies(folder / "root")),
    }


def run(preset, places, folder):
    """Run a preset; return its settings and results."""
    settings = from_flat({**preset_values(preset), **places, "run.results": str(folder)})
    run_in_process(settings)
    return settings, json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def runs(places, tmp_path_factory):
    """Preset → folder, settings and results of one run of its tiny variant."""
    folders = {preset: tmp_path_factory.mktemp("runs") / preset for preset in PRESETS}
    return {
        preset: (folder, *run(f"{preset}-tiny", places, folder))
        for preset, folder in folders.items()
    }


@pytest.mark.parametrize("preset", PRESETS)
def test_the_tiny_variant_differs_from_the_preset_in_sizes_alone(preset):
    full, tiny = preset_values(preset), preset_values(f"{preset}-tiny")
    sizes = {
        "task.model", "task.max-new-tokens", "data.train-samples",
        "data.test-samples", "data.max-tokens", "lora.rank", "lora.alpha", "train.learning-rate",
        "train.batch-size", "train.local-steps", "train.evaluation-batch-size",
        "federation.rounds", "federation.timeout", "local.steps", "calibration.samples",
        "calibration.batch-size",
    }  # fmt: skip
    assert {name for name, value in tiny.items() if full[name] != value} <= sizes


@pytest.mark.parametrize("preset", PRESETS)
def test_a_tiny_variant_runs_offline(preset, runs):
    folder, settings, results = runs[preset]
    assert [client["client"] for client in results["clients"]] == list(range(8))
    assert len(results["rounds"]) >= settings.federation.rounds
    for client in results["clients"]:
        assert client["num_train"] == settings.data.train_samples
        assert client["num_test"] == settings.data.test_samples
        for score in (*client["accuracy"].values(), client["personalized"]["accuracy"]):
            assert 0 <= score <= 1
        assert all(math.isfinite(loss) for loss in client["loss"].values())
        assert client["loss"]["local"] != client["loss"]["initial"]
    assert (folder / "report.html").is_file()


@pytest.mark.parametrize("method", ["apfl", "pf2lora"])
def test_methods_with_steps_of_their_own_train_a_language_model(method, places, tmp_path):
    settings = from_flat({
        **preset_values("commonsense-llama-tiny"), **places, "method": method,
        "model.dtype": "float32", "model.gradient-checkpointing": True, "train.accumulate": 2,
        "lora.dropout": 0.1, "lora.rank-pattern": "q_proj=3", "run.report": False,
        "run.results": str(tmp_path / "run"),
    })  # fmt: skip
    folder = run_in_process(settings)
    results = json.loads((folder / "results.json").read_text())
    assert results["refused"] == results["missing"] == []
    bench = Workbench(settings)
    for entry in results["clients"]:
        assert math.isfinite(entry["personalized"]["loss"])
        assert entry["personalized"]["loss"] not in entry["loss"].values()
    place = folder / "clients" / "0"
    base = AutoModelForCausalLM.from_pretrained(settings.task.model)
    plain = PeftModel.from_pretrained(base, str(place)).eval()
    ids = torch.arange(1, 9).unsqueeze(0)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.no_grad():
        expected = bench.model(load_file(place / ADAPTER_FILE), inputs)
        torch.testing.assert_close(plain(**inputs).logits, expected)


@pytest.mark.parametrize("preset", PRESETS)
def test_saved_adapters_are_such_as_servers_take(preset, runs):
    folder, settings, _ = runs[preset]
    places = sorted(file.parent for file in folder.rglob("adapter_config.json"))
    assert len(places) == 1 + 2 * settings.data.num_clients  # federated; personalized and local
    umask = os.umask(0)
    os.umask(umask)
    for place in places:
        config = json.loads((place / "adapter_config.json").read_text())
        assert config["task_type"] == "CAUSAL_LM"
        assert config["base_model_name_or_path"] == settings.task.model
        assert config["modules_to_save"] is None
        assert config["bias"] == "none"
        assert (config["rank_pattern"], config["alpha_pattern"]) == ({}, {})
        assert config["target_modules"] == sorted(config["target_modules"])
        shapes = {name: t.shape for name, t in load_file(place / ADAPTER_FILE).items()}
        layers = {}
        for name, shape in shapes.items():
            stem, sign, which = name.removesuffix(".weight").rpartition(".lora_")
            assert sign
            assert which in "AB"
            assert config["r"] == shape["AB".index(which)]
            layer, _, module = stem.partition("layers.")[2].partition(".")
            layers.setdefault(layer, set()).add((module.rpartition(".")[2], which))
        expected = {(target, which) for target in config["target_modules"] for which in "AB"}
        assert all(found == expected for found in layers.values())
        for file in place.iterdir():
            allowed = 0o777 if file.is_dir() else 0o666
            assert stat.S_IMODE(file.stat().st_mode) == allowed & ~umask, file


@pytest.mark.parametrize("preset", PRESETS)
def test_adapters_of_a_preset_have_a_rank_that_servers_take(preset):
    settings = compose_settings([f"experiment={preset}"])
    doubled = settings.merge.space == "delta" and not settings.merge.svd
    assert settings.lora.rank * (1 + doubled) in (1, 8, 16)  # vLLM's, its default limit being 16


def test_saved_adapters_answer_in_plain_peft_as_the_results_say(places, tmp_path):
    # float32: a random model's options are near ties, which bfloat16 decides by a batch's shape.
    folder = tmp_path / "run"
    settings, results = run("commonsense-llama-tiny", {**places, "model.dtype": "float32"}, folder)
    bench = Workbench(settings)
    for client in results["clients"]:
        test = bench.client(client["client"]).test
        base = AutoModelForCausalLM.from_pretrained(settings.task.model, dtype=torch.float32)
        place = folder / "clients" / str(client["client"]) / "local"
        model = PeftModel.from_pretrained(base, str(place)).eval()
        right = 0
        for row in range(len(test["labels"])):
            prompt = test["input_ids"][row][test["attention_mask"][row] == 1]
            scores = []
            for ids, weights in zip(
                test["labels_answers"][row], test["labels_weights"][row], strict=True
            ):
                option = ids[weights > 0]
                if len(option):
                    with torch.no_grad():
                        logits = model(input_ids=torch.cat([prompt, option])[None]).logits[0]
                    log_probs = logits.log_softmax(-1)[len(prompt) - 1 : -1]
                    scores.append(log_probs[range(len(option)), option].mean().item())
            right += max(range(len(scores)), key=scores.__getitem__) == test["labels"][row].item()
        assert right / len(test["labels"]) == pytest.approx(client["accuracy"]["local"])
        card = (place / "README.md").read_text()
        assert "AutoModelForCausalLM" in card


def test_equal_seeds_give_equal_numbers_and_tokens_come_from_the_cache(
    places, runs, tmp_path, monkeypatch
):
    _, _, first = runs["flan-llama"]
    workbench(from_flat({}))  # forgets what the first run has loaded
    monkeypatch.setattr(encoding, "ids_of_parts", None)  # tokenizing anew would call it
    _, second = run("flan-llama-tiny", places | {"run.report": False}, tmp_path / "second")

    timings = ("seconds", "seconds_local_training", "seconds_weight")
    for one, two in zip(first["clients"], second["clients"], strict=True):
        assert {name: value for name, value in one.items() if name not in timings} == {
            name: value for name, value in two.items() if name not in timings
        }
