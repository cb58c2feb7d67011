"""Personalization without a server: the bits of the run, and what is refused."""

from __future__ import annotations

import json
import shutil

import pandas as pd
import pytest
import torch
from clients import same_bits
from peft import PeftModel
from tiny_models import make_tiny_bert, sentences
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from potara_flwr.core.errors import SettingsError, StorageError
from potara_flwr.in_process import run_in_process
from potara_flwr.methods import METHODS
from potara_flwr.models.lora import load_adapter
from potara_flwr.offline import personalize_offline
from potara_flwr.results.folder import digest, read_results
from potara_flwr.run_config import from_flat
from potara_flwr.running.composition import compose_settings

pytestmark = pytest.mark.integration

ALONE = [name for name, row in METHODS.items() if "federated" in row.adapters and not row.keeps]


@pytest.fixture
def finished(run_of):
    """The results folder of a run with Potara."""
    return run_of("potara").folder


@pytest.fixture
def federated(finished, tmp_path):
    """A copy of its federated adapter, alone."""
    return shutil.copytree(finished / "federated", tmp_path / "federated")


@pytest.mark.parametrize("method", ALONE)
def test_a_client_alone_ends_with_the_bits_of_the_run(int8_run_of, tmp_path, method):
    settings, folder, results, _ = int8_run_of(method)
    report = personalize_offline(folder, tmp_path / "out", client=1)
    theirs = results["clients"][1]
    in_rounds = METHODS[method].rounds(settings) * settings.train.local_steps
    assert report["optimizer_steps"] == theirs["optimizer_steps"] - in_rounds
    report["optimizer_steps"] = theirs["optimizer_steps"]
    assert digest(report) == digest(theirs)
    files = sorted((folder / "clients" / "1").rglob("*.safetensors"))
    assert files
    for file in files:
        twin = tmp_path / "out" / file.relative_to(folder / "clients" / "1")
        assert twin.read_bytes() == file.read_bytes()
    assert (tmp_path / "out" / "README.md").is_file()
    stored = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {**stored, "optimizer_steps": theirs["optimizer_steps"]} == report


def test_one_folder_is_all_that_a_client_needs(federated, finished, tmp_path):
    report = personalize_offline(federated, tmp_path / "out", client=2)
    theirs = finished / "clients" / "2"
    assert same_bits(load_adapter(tmp_path / "out"), load_adapter(theirs))
    assert report["client"] == 2
    with pytest.raises(SettingsError, match="is in use"):
        personalize_offline(federated, tmp_path / "out", client=2)


def test_an_adapter_that_has_changed_is_refused(federated, finished, tmp_path):
    file = federated / "adapter_model.safetensors"
    good = file.read_bytes()
    file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(StorageError, match=r"is not the adapter that the run saved.*run\.json"):
        personalize_offline(federated, tmp_path / "out", client=0)
    # Both were changed alike, but not what the server recorded.
    file.write_bytes(good)
    (tmp_path / "results.json").write_text(json.dumps({"federated_sha256": "0" * 64}))
    with pytest.raises(StorageError, match=r"is not the adapter.*in results\.json 0000"):
        personalize_offline(federated, tmp_path / "out", client=0)
    assert read_results(finished)["federated_sha256"] in (federated / "run.json").read_text()
    (federated / "run.json").write_text("{}")
    with pytest.raises(StorageError, match="is damaged"):
        personalize_offline(federated, tmp_path / "out", client=0)
    (federated / "run.json").unlink()
    with pytest.raises(StorageError, match=r"run\.json cannot be read"):
        personalize_offline(federated, tmp_path / "out", client=0)
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_done_alone_is_said(federated, tmp_path, run_of):
    for arguments, words in (
        ({}, "name the client's number"),
        ({"client": 3}, "the run has 3 clients"),
        ({"client": 0, "model": str(tmp_path / "no")}, r"task\.model"),
        ({"data": str(tmp_path)}, "brings its own images"),
    ):
        with pytest.raises(SettingsError, match=words):
            personalize_offline(federated, tmp_path / "out", **arguments)
    with pytest.raises(SettingsError, match="each client keeps its personal adapter"):
        personalize_offline(run_of("ditto").folder, tmp_path / "out", client=0)
    assert not (tmp_path / "out").exists()


def test_a_client_that_never_took_part_brings_its_own_data(tmp_path):
    model, rows = make_tiny_bert(tmp_path / "model"), pd.DataFrame(sentences())
    rows.iloc[:160].to_parquet(tmp_path / "theirs.parquet")
    rows.iloc[160:].to_parquet(tmp_path / "mine.parquet")
    preset = compose_settings(["experiment=sentiment-tiny"]).to_flat()
    settings = from_flat(
        {**preset, "task.model": str(model), "data.path": str(tmp_path / "theirs.parquet"),
         "data.num-clients": 2, "data.test-samples": 0, "calibration.samples": 4,
         "run.results": str(tmp_path / "run"), "run.report": False}
    )  # fmt: skip
    federated = run_in_process(settings) / "federated"
    mine = str(tmp_path / "mine.parquet")
    report = personalize_offline(federated, tmp_path / "out", data=mine)
    assert report["client"] == 2
    assert report["num_test"] == rows.iloc[160:]["split"].eq("test").sum()
    assert report["optimizer_steps"] == settings.local.steps
    again = personalize_offline(federated, tmp_path / "again", data=mine)
    other = personalize_offline(federated, tmp_path / "other", data=mine, client=1)
    assert digest(again) == digest(report)
    assert same_bits(load_adapter(tmp_path / "again"), load_adapter(tmp_path / "out"))
    local = [load_adapter(tmp_path / name / "local") for name in ("other", "out")]
    assert not same_bits(*local)
    assert other["client"] == 1
    with pytest.raises(SettingsError, match=r"there is no file or folder .*nowhere\.parquet"):
        personalize_offline(federated, tmp_path / "no", data=str(tmp_path / "nowhere.parquet"))
    # Where the run had its base model is not where this machine has it.
    model.rename(tmp_path / "moved")
    with pytest.raises(SettingsError, match=r"task\.model"):
        personalize_offline(federated, tmp_path / "no", data=mine)
    place = str(tmp_path / "moved")
    moved = personalize_offline(federated, tmp_path / "moved-out", data=mine, model=place)
    assert digest(moved) == digest(report)


def test_labels_mean_what_they_meant_in_the_run(tmp_path):
    # The newcomer lacks the first class: by its own file, `good` would be number 0.
    make_tiny_bert(tmp_path / "model")
    rows = pd.DataFrame(sentences())
    rows["label"] = rows["label"].map({0: "bad", 1: "good", 2: "so-so"})
    rows.iloc[:160].to_csv(tmp_path / "theirs.csv", index=False)
    rest = rows.iloc[160:]
    mine = rest[rest["label"] != "bad"]
    mine.to_csv(tmp_path / "mine.csv", index=False)
    settings = from_flat(
        {**compose_settings(["experiment=sentiment-tiny"]).to_flat(),
         "task.model": str(tmp_path / "model"), "data.path": str(tmp_path / "theirs.csv"),
         "data.num-clients": 2, "data.test-samples": 0, "calibration.samples": 4,
         "train.local-steps": 20, "run.results": str(tmp_path / "run"), "run.report": False}
    )  # fmt: skip
    federated = run_in_process(settings) / "federated"
    run = json.loads((federated / "run.json").read_text())
    assert run["classes"] == ["bad", "good", "so-so"]
    report = personalize_offline(federated, tmp_path / "out", data=str(tmp_path / "mine.csv"))
    # By hand: plain transformers and peft, and the names in the adapter's folder.
    names = json.loads((tmp_path / "out" / "classes.json").read_text())["id2label"]
    base = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "model", num_labels=3, ignore_mismatched_sizes=True
    )
    model = PeftModel.from_pretrained(base, str(tmp_path / "out")).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    tested = mine[mine["split"] == "test"]
    texts = tokenizer(tested["text"].tolist(), padding=True, return_tensors="pt")
    with torch.no_grad():
        found = model(**texts).logits.argmax(-1).tolist()
    right = [names[str(one)] == label for one, label in zip(found, tested["label"], strict=True)]
    assert report["num_test"] == len(right)
    assert report["personalized"]["accuracy"] == pytest.approx(sum(right) / len(right))
    (tmp_path / "other.csv").write_text(
        (tmp_path / "mine.csv").read_text().replace("so-so", "awful")
    )
    with pytest.raises(
        SettingsError, match=r"other\.csv, column 'label': row \d+ has the label 'a"
    ):
        personalize_offline(federated, tmp_path / "no", data=str(tmp_path / "other.csv"))
    assert not (tmp_path / "no").exists()
