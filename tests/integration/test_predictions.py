"""``potara predict``: what a saved adapter says of new rows has the accuracy of the results."""

import csv
import io
import json
import shutil

import datasets
import numpy as np
import pytest
import torch
from architectures import write_image_model, write_text_model
from coloured_images import write_coloured_images
from PIL import Image
from tiny_llama import make_tiny_llama

from potara_flwr.command.main import main
from potara_flwr.data.clients import client_rows
from potara_flwr.data.questions import client_questions
from potara_flwr.in_process import run_in_process
from potara_flwr.models.lora import load_adapter
from potara_flwr.models.runner import AdaptedModel
from potara_flwr.offline import personalize_offline
from potara_flwr.prediction import predict_rows
from potara_flwr.results.folder import read_results
from potara_flwr.run_config import from_flat
from potara_flwr.tasks.base import split_client
from potara_flwr.tasks.digits import MEAN, STD
from potara_flwr.tasks.workbench import Workbench

pytestmark = pytest.mark.integration

SMALL = {
    "data.num-clients": 2, "data.partition": "iid", "federation.rounds": 1,
    "train.local-steps": 4, "local.steps": 6, "calibration.samples": 4, "train.batch-size": 4,
    "train.learning-rate": 0.02, "data.max-tokens": 16, "run.report": False,
    "train.evaluation-batch-size": 5, "merge.compare": False, "merge.space": "delta",
}  # fmt: skip
CLASSES = ("cold", "it's flu", "none")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def rows_for_testing(settings, held, client):
    """Return the rows of a client that it is tested on, in their order."""
    split, _ = split_client(settings, client, len(held.rows), held.tested)
    return held.rows.select(split["test"].numpy()), split["test"]


def accuracy(said, right):
    return sum(map(str.__eq__, said, right)) / len(right)


def write_words(place):
    draws = np.random.default_rng(0)
    with place.open("w") as file:
        for number in range(60):
            words = [f"w{number % 3 * 8 + draws.integers(8)}" for _ in range(1 + number % 9)]
            row = {"text": " ".join(words), "label": CLASSES[number % 3]}
            file.write(json.dumps(row) + "\n")
    return place


def test_labels_of_texts(tmp_path, capsys):
    settings = from_flat({
        **SMALL, "task.name": "text-classification", "task.head": "local",
        "task.model": str(write_text_model(tmp_path / "model", "llama")),
        "data.path": str(write_words(tmp_path / "texts.jsonl")), "run.results": str(tmp_path / "r"),
    })  # fmt: skip
    results = read_results(run_in_process(settings))
    for entry in results["clients"]:
        number = entry["client"]
        held = client_rows(settings, number, "text")
        rows, at = rows_for_testing(settings, held, number)
        right = [held.classes[label] for label in held.labels[at]]
        assert len({len(text.split()) for text in rows["text"]}) > 1
        file = tmp_path / f"new-{number}.csv"
        rows.to_csv(file, index=False)
        assert csv.DictReader(file.open()).fieldnames == ["text"]
        place = tmp_path / "r" / "clients" / str(number)
        capsys.readouterr()
        assert main(["predict", "--adapter", str(place), "--data", str(file)]) == 0
        said = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
        assert accuracy([row["label"] for row in said], right) == pytest.approx(
            entry["personalized"]["accuracy"]
        )
        for row in said:
            shares = {name: float(row[f"probabilities.{name}"]) for name in CLASSES}
            assert sum(shares.values()) == pytest.approx(1)
            assert max(shares, key=shares.get) == row["label"]
        loss = -np.mean([
            np.log(float(row[f"probabilities.{name}"]))
            for row, name in zip(said, right, strict=True)
        ])  # fmt: skip
        assert loss == pytest.approx(entry["personalized"]["loss"], rel=1e-4)
        local = predict_rows(place / "local", str(file))
        assert accuracy([row["label"] for row in local], right) == pytest.approx(
            entry["accuracy"]["local"]
        )
    # A folder that was copied elsewhere still predicts, once it is told where the base model is.
    moved = shutil.copytree(place, tmp_path / "elsewhere" / "mine")
    (tmp_path / "model").rename(tmp_path / "base")
    out = tmp_path / "said.jsonl"
    words = ["predict", "--adapter", str(moved), "--data", str(file), "--out", str(out)]
    assert main(words) == 1
    assert "task.model: there is no folder" in (said_so := capsys.readouterr().err)
    assert said_so.endswith("say where it is now: task.model=FOLDER\n")
    assert not out.exists()
    out.write_text("of before")
    assert main([*words, f"task.model={tmp_path / 'base'}"]) == 0
    again = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["label"] for row in again] == [row["label"] for row in said]
    assert list(again[0]["probabilities"]) == list(CLASSES)
    # The federated adapter has no head here.
    federated = str(tmp_path / "r" / "federated")
    assert main(["predict", "--adapter", federated, "--data", str(file)]) == 1
    assert "has no head, which each client keeps" in capsys.readouterr().err


def test_labels_of_images(tmp_path):
    write_coloured_images(tmp_path / "images", CLASSES, 48)
    settings = from_flat({
        **SMALL, "task.name": "image-classification", "data.path": str(tmp_path / "images"),
        "task.model": str(write_image_model(tmp_path / "model", "vit")), "method": "fedit_ft",
        "run.results": str(tmp_path / "run"),
    })  # fmt: skip
    results = read_results(run_in_process(settings))
    for entry in results["clients"]:
        held = client_rows(settings, entry["client"], "image")
        rows, at = rows_for_testing(settings, held, entry["client"])
        right = [held.classes[label] for label in held.labels[at]]
        table = tmp_path / f"{entry['client']}.csv"
        names = [image.filename for image in rows["image"]]
        table.write_text("photo\n" + "".join(f"{name}\n" for name in names))
        for place, told in (
            (f"clients/{entry['client']}", entry["personalized"]["accuracy"]),
            ("federated", entry["accuracy"]["federated"]),
        ):
            said = predict_rows(
                tmp_path / "run" / place, str(table), {"data.image-column": "photo"}
            )
            assert accuracy([row["label"] for row in said], right) == pytest.approx(told)


def test_labels_of_digits(run_of, tmp_path):
    settings, folder, results, _ = run_of("potara")
    entry = results["clients"][1]
    test = Workbench(settings).client(1).test
    pixels = ((test["pixel_values"] * STD + MEAN) * 255).round().byte()
    for number, image in enumerate(pixels):
        Image.fromarray(image[0].numpy()).save(tmp_path / f"{number}.png")
    table = tmp_path / "new.csv"
    table.write_text("image\n" + "".join(f"{number}.png\n" for number in range(len(pixels))))
    said = predict_rows(folder / "clients" / "1", str(table))
    right = [str(int(label)) for label in test["labels"]]
    assert accuracy([row["label"] for row in said], right) == pytest.approx(
        entry["personalized"]["accuracy"]
    )
    # What is saved without a server predicts as what the run saved.
    personalize_offline(folder, tmp_path / "alone", client=1)
    assert predict_rows(tmp_path / "alone", str(table)) == said


def write_questions(place, options):
    with place.open("w") as file:
        for number in range(48):
            kind = number % 3
            row = {"prompt": f"Which of these {'is' * (number % 5)} good, {kind}? Answer:",
                   "answer": ["yes", "no", "a place"][kind]}  # fmt: skip
            if options:
                row["options"] = ["yes", "no", "a place"][: 2 + (kind == 2)]
            file.write(json.dumps(row) + "\n")
    return place


def language_settings(folder, task, options):
    return from_flat({
        **SMALL, "task.name": task, "task.model": str(make_tiny_llama(folder / "model")),
        "data.path": str(write_questions(folder / "rows.jsonl", options)), "data.max-tokens": 64,
        "data.options-column": "options" if options else "", "task.max-new-tokens": 4,
        "run.results": str(folder / "run"), "data.test-samples": 8,
    })  # fmt: skip


@pytest.mark.parametrize("task", ["multiple-choice", "instruction"])
def test_options(task, tmp_path):
    settings = language_settings(tmp_path, task, options=True)
    results = read_results(run_in_process(settings))
    for entry in results["clients"]:
        rows, _ = rows_for_testing(
            settings, client_questions(settings, entry["client"]), entry["client"]
        )
        file = tmp_path / f"{entry['client']}.jsonl"
        rows.remove_columns("answer").to_json(file)
        said = predict_rows(tmp_path / "run" / "clients" / str(entry["client"]), str(file))
        assert accuracy([row["option"] for row in said], rows["answer"][:]) == pytest.approx(
            entry["personalized"]["accuracy"]
        )
        for row, options in zip(said, rows["options"], strict=True):
            assert len(row["scores"]) == len(row["probabilities"]) == len(options)
            assert options[row["number"]] == row["option"]
            assert row["scores"][row["number"]] == max(row["scores"])


def test_free_answers_are_those_of_the_run(tmp_path):
    settings = language_settings(tmp_path, "instruction", options=False)
    folder = run_in_process(settings)
    bench = Workbench(settings)
    rows, _ = rows_for_testing(settings, client_questions(settings, 1), 1)
    file = tmp_path / "asked.jsonl"
    rows.remove_columns("answer").to_json(file)
    said = predict_rows(folder / "clients" / "1", str(file))
    adapter = load_adapter(folder / "clients" / "1")
    test = bench.client(1).test
    adapted = AdaptedModel(bench.model, bench.model.initial | adapter)
    with torch.no_grad():
        written = bench.task._written(adapted, test)
    assert len(set(written)) > 1
    # The samples of the run are sorted by length, the predictions are in the order of the rows.
    asked = [
        bench.task._text(ids[real > 0])
        for ids, real in zip(test["input_ids"], test["attention_mask"], strict=True)
    ]
    by_prompt = dict(zip(asked, written, strict=True))
    assert [row["answer"] for row in said] == [by_prompt[prompt] for prompt in rows["prompt"]]


def test_replies_to_conversations(tmp_path):
    turns = [[
        {"role": "user", "content": f"Which of these is good, {number}?"},
        {"role": "assistant", "content": ["yes", "no"][number % 2]},
        {"role": "user", "content": "Is it a place?"},
        {"role": "assistant", "content": ["a good way", "no way"][number // 2 % 2]},
    ] for number in range(32)]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"messages": t}) + "\n" for t in turns))
    settings = from_flat({
        **SMALL, "task.name": "instruction", "data.max-tokens": 128, "data.test-samples": 6,
        "task.model": str(make_tiny_llama(tmp_path / "model")), "task.max-new-tokens": 4,
        "data.path": str(tmp_path / "rows.jsonl"), "run.results": str(tmp_path / "run"),
    })  # fmt: skip
    folder = run_in_process(settings)
    rows, _ = rows_for_testing(settings, client_questions(settings, 0), 0)
    told = [row["messages"] for row in rows]
    for name, talks in (("whole", told), ("asked", [talk[:-1] for talk in told])):
        text = "".join(json.dumps({"messages": talk}) + "\n" for talk in talks)
        (tmp_path / f"{name}.jsonl").write_text(text)
    said, asked = (
        predict_rows(folder / "clients" / "0", str(tmp_path / f"{name}.jsonl"))
        for name in ("whole", "asked")
    )
    assert said == asked
    bench = Workbench(settings)
    test = bench.client(0).test
    adapter = bench.model.initial | load_adapter(folder / "clients" / "0")
    with torch.no_grad():
        written = bench.task._written(AdaptedModel(bench.model, adapter), test)
    assert sorted(written) == sorted(row["answer"] for row in said)


def test_parts_are_no_adapter(run_of, capsys):
    folder = run_of("fedalt").folder / "clients" / "0"
    assert main(["predict", "--adapter", str(folder), "--data", "new.csv"]) == 1
    assert "parts that run together (local, mixer.safetensors, rest-of-world" in (
        capsys.readouterr().err
    )


def test_what_cannot_be_predicted_is_one_line(run_of, tmp_path, capsys):
    folder = run_of("potara").folder
    adapter = folder / "clients" / "0"
    good = tmp_path / "good.csv"
    Image.new("L", (28, 28)).save(tmp_path / "a.png")
    Image.new("L", (9, 28)).save(tmp_path / "b.png")
    (tmp_path / "c.png").write_bytes(b"no image")
    good.write_text("image\na.png\n")
    for name, text in {
        "narrow": "image\na.png\nb.png\n", "broken": "image\na.png\nc.png\n",
        "none": "image\na.png\nd.png\n", "other": "photo\na.png\n", "empty": "image\n",
    }.items():  # fmt: skip
        (tmp_path / f"{name}.csv").write_text(text)
    (tmp_path / "bare").mkdir()
    cut = shutil.copytree(adapter, tmp_path / "cut")
    (cut / "adapter_model.safetensors").write_bytes(b"x" * 99)
    old = shutil.copytree(adapter, tmp_path / "old")
    (old / "run.json").unlink()
    shutil.rmtree(old / "local")
    for place, data, words, said in (
        (tmp_path / "nowhere", good, [], "there is no folder"),
        (tmp_path / "bare", good, [], "run.json cannot be read"),
        (folder, good, [], "holds several adapters; name one of them: "),
        (folder / "clients", good, [], "holds several adapters; name one of them: "),
        (cut, good, [], "is not the adapter that the run saved"),
        (old, good, [], "run.json cannot be read"),
        (adapter, tmp_path / "no.csv", [], "data.path"),
        (adapter, tmp_path / "other.csv", [], "data.image-column is 'image', but other.csv has"),
        (adapter, tmp_path / "empty.csv", [], "it has no rows"),
        (adapter, tmp_path / "narrow.csv", [], "row 1 has 9 × 28 pixels"),
        (adapter, tmp_path / "broken.csv", [], "row 1 (c.png) cannot be read"),
        (adapter, tmp_path / "none.csv", [], "row 1 (d.png) cannot be read"),
        (adapter, good, ["seed=3"], "seed is the run's"),
        (adapter, good, ["data.classes=3"], "data.classes is the run's"),
        (adapter, good, ["experiment=paper"], "is a preset, which is for runs"),
        (adapter, good, ["data.pth=x"], "unknown setting 'data.pth'"),
        (adapter, good, ["task.model=a,b"], "has several values"),
        (adapter, good, ["--out", str(tmp_path / "x.txt")], "must end in .csv or .jsonl"),
    ):
        assert main(["predict", "--adapter", str(place), "--data", str(data), *words]) == 1
        stream = capsys.readouterr()
        assert stream.err.startswith("error: ")
        assert stream.err.count("\n") == 1
        assert said in stream.err
        assert not stream.out
        assert not (tmp_path / "x.txt").exists()
