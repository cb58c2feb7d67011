"""``potara merge``: two adapters that plain peft has saved, whoever trained them."""

import json

import datasets
import pytest
import torch
from architectures import write_text_model
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from tiny_models import WORDS
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from potara_flwr.command.main import main
from potara_flwr.merging import RULES

pytestmark = pytest.mark.integration

CLASSES = ("bad", "good")
ROWS = [
    (" ".join(WORDS[number % 9 : number % 9 + 1 + number % 7]), CLASSES[number % 2])
    for number in range(60)
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def place(tmp_path):
    """A base model and samples."""
    write_text_model(tmp_path / "base", "bert")
    lines = [json.dumps({"text": text, "label": label}) for text, label in ROWS]
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    return tmp_path


def base_of(place):
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_pretrained(place / "base", num_labels=2)


def save(place, name, seed, **config):
    """Save an adapter of plain peft with random factors."""
    chosen = {"r": 2, "lora_alpha": 4, "target_modules": ["query", "value"],
              "modules_to_save": ["classifier"], "task_type": "SEQ_CLS", **config}  # fmt: skip
    model = get_peft_model(base_of(place), LoraConfig(**chosen))
    torch.manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.4)
    model.save_pretrained(place / name)
    return place / name


def merge(place, *words, first="first", second="second", out="merged"):
    return main(["merge", str(place / first), str(place / second),
                 "--data", str(place / "data.jsonl"), "--out", str(place / out),
                 "task.name=text-classification", "calibration.samples=12", *words])  # fmt: skip


def updates(place, folder):
    """Layer → ΔW of an adapter, as plain peft applies it."""
    model = PeftModel.from_pretrained(base_of(place), folder)
    before = {name: p.detach().clone() for name, p in base_of(place).named_parameters()}
    merged = dict(model.merge_and_unload().named_parameters())
    return {name: (merged[name] - p).detach() for name, p in before.items() if "layer." in name}


def accuracy(place, folder, texts, labels):
    model = PeftModel.from_pretrained(base_of(place), folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(place / "base")
    inputs = tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        predicted = model(**inputs).logits.argmax(-1)
    return (predicted == torch.tensor(labels)).float().mean().item()


def test_two_adapters_of_peft_become_one_that_peft_loads(place, capsys):
    for seed, name in enumerate(("first", "second")):
        save(place, name, seed)
    assert merge(place, "data.test-fraction=0.5") == 0
    out = place / "merged"
    report = json.loads((out / "report.json").read_text())
    weight = report["personalized"]["weight"]
    assert f"λ {weight:.2f} by excess-loss" in capsys.readouterr().out
    first, second, merged = (
        load_file(place / name / "adapter_model.safetensors")
        for name in ("first", "second", "merged")
    )
    assert set(merged) == set(first)
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, weight * first[name] + (1 - weight) * second[name])
    assert set(report["weights"]) == {*RULES, "oracle"}
    assert [point["weight"] for point in report["grid"]] == [n / 10 for n in range(11)]
    assert report["grid"][0]["accuracy"] == report["accuracy"]["local"]
    assert report["grid"][-1]["accuracy"] == report["accuracy"]["federated"]
    assert (report["num_calibration"], report["num_test"]) == (12, 30)
    assert (out / "accuracy-along-weight.png").stat().st_size > 5000
    assert "λ · first + (1 − λ) · second" in (out / "README.md").read_text()
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["target_modules"] == ["query", "value"]
    assert config["base_model_name_or_path"] == str(place / "base")
    assert json.loads((out / "classes.json").read_text())["id2label"] == {"0": "bad", "1": "good"}
    words = ["--data", str(place / "data.jsonl"), "--out", str(place / "said.csv")]
    assert main(["predict", "--adapter", str(out), *words]) == 0
    assert len((place / "said.csv").read_text().splitlines()) == 1 + len(ROWS)


def test_all_rows_as_test_rows_say_what_plain_peft_says(place):
    for seed, name in enumerate(("first", "second")):
        save(place, name, seed)
    lines = [json.dumps({"text": text, "label": label, "split": split})
             for split in ("train", "test") for text, label in ROWS]  # fmt: skip
    (place / "data.jsonl").write_text("\n".join(lines))
    assert merge(place, "data.split-column=split") == 0
    report = json.loads((place / "merged" / "report.json").read_text())
    texts, labels = zip(*ROWS, strict=True)
    numbers = [CLASSES.index(label) for label in labels]
    for folder, told in (
        ("first", report["accuracy"]["federated"]),
        ("second", report["accuracy"]["local"]),
        ("merged", report["personalized"]["accuracy"]),
    ):
        assert accuracy(place, place / folder, list(texts), numbers) == pytest.approx(told)


def test_updates_of_other_ranks_scalings_and_layers_merge_exactly(place):
    save(place, "first", 1, r=1, lora_alpha=3)
    save(place, "second", 2, r=3, lora_alpha=2, target_modules=["key", "value"], use_rslora=True,
         alpha_pattern={"key": 5})  # fmt: skip
    assert merge(place, "merge.space=delta") == 0
    weight = json.loads((place / "merged" / "report.json").read_text())["personalized"]["weight"]
    first, second, merged = (updates(place, place / n) for n in ("first", "second", "merged"))
    assert 0 < weight < 1
    for name, update in merged.items():
        torch.testing.assert_close(
            update, weight * first[name] + (1 - weight) * second[name], rtol=1e-4, atol=1e-5
        )
    assert json.loads((place / "merged" / "adapter_config.json").read_text())["r"] == 1 + 3


@pytest.mark.parametrize(
    ("first", "second"), [({"r": 1}, {"r": 2}), ({"r": 2, "rank_pattern": {"query": 1}}, {"r": 2})]
)
def test_ranks_that_differ_are_refused_where_factors_merge(place, capsys, first, second):
    save(place, "first", 1, **first)
    save(place, "second", 2, **second)
    assert merge(place) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: the ranks differ, 1 and 2")
    assert "merge.space=delta" in error
    assert not (place / "merged").exists()


@pytest.mark.parametrize(
    ("config", "words", "reason"),
    [
        ({"use_dora": True}, (), "was trained with use_dora, whose update is not s·B·A"),
        ({"bias": "lora_only"}, (), "has trained biases"),
        ({"init_lora_weights": "olora"}, (), "which changes its base model"),
        ({"modules_to_save": None, "task_type": None}, (), "alone has a head"),
        ({}, ("task.name=digits",), "task.name=digits brings its own images"),
    ],
)
def test_what_cannot_be_merged_is_one_line(place, capsys, config, words, reason):
    save(place, "first", 1)
    save(place, "second", 2, **config)
    assert merge(place, *words) == 1
    error = capsys.readouterr().err
    assert reason in error
    assert error.count("\n") == 1
    assert not (place / "merged").exists()


def test_bases_and_classes_that_differ_are_refused(place, capsys):
    save(place, "first", 1)
    second = save(place, "second", 2)
    for folder, classes in (("first", ["bad", "good"]), ("second", ["good", "bad"])):
        text = json.dumps({"id2label": dict(enumerate(classes))})
        (place / folder / "classes.json").write_text(text)
    assert merge(place) == 1
    assert "another order: bad, good and good, bad" in capsys.readouterr().err
    (second / "classes.json").unlink()
    config = json.loads((second / "adapter_config.json").read_text())
    (second / "adapter_config.json").write_text(
        json.dumps(config | {"base_model_name_or_path": "another"})
    )
    assert merge(place) == 1
    assert "if they are the same, name it (task.model=…)" in capsys.readouterr().err
    assert merge(place, f"task.model='{place / 'base'}'") == 0
    assert merge(place) == 1
    assert "is in use; name a new folder" in capsys.readouterr().err


def test_a_folder_without_an_adapter_is_one_line(place, capsys):
    save(place, "first", 1)
    assert merge(place) == 1
    assert "second is no adapter: adapter_config.json cannot be read" in capsys.readouterr().err
