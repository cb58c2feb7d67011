"""The code on a model card, run as it stands, gives the numbers of the results."""

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from architectures import SIDE, write_image_model, write_text_model, write_word_tokenizer
from coloured_images import write_coloured_images
from tiny_llama import make_tiny_llama
from tiny_models import WORDS, make_tiny_digits_vit
from tokenizers import processors
from transformers import (
    BartConfig,
    BartForCausalLM,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from potara_flwr.in_process import run_in_process
from potara_flwr.results.folder import read_results
from potara_flwr.run_config import from_flat
from potara_flwr.tasks.workbench import Workbench
from simulations.cards import PlainModel, load_by_card, raw_contents, score_card

pytestmark = pytest.mark.integration

SMALL = {
    "data.num-clients": 2, "data.partition": "iid", "federation.rounds": 1,
    "train.local-steps": 4, "local.steps": 6, "calibration.samples": 4, "train.batch-size": 4,
    "train.learning-rate": 0.02, "data.max-tokens": 16, "run.report": False,
}  # fmt: skip
CLASSES = ("cold", "it's flu", "none")
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def check_cards(settings, folder, tolerance=1e-5):
    """Compare what every client's personalized and federated cards give with the results."""
    results, bench = read_results(folder), Workbench(settings)
    assert len(results["clients"]) == 2
    for entry in results["clients"]:
        data = bench.client(entry["client"])
        told = {
            folder / "clients" / str(entry["client"]): entry["personalized"],
            folder / "federated": {key: entry[key]["federated"] for key in ("accuracy", "loss")},
        }
        for place, numbers in told.items():
            names = load_by_card(place)
            assert not names["model"].training
            losses, scores = bench.task.scores(PlainModel(names["model"]), data.test)
            assert losses.double().mean().item() == pytest.approx(numbers["loss"], rel=tolerance)
            assert scores.double().mean().item() == pytest.approx(numbers["accuracy"])
            if data.classes:
                assert names["model"].config.id2label == dict(enumerate(data.classes))
                assert names["model"].config.label2id == {
                    name: at for at, name in enumerate(data.classes)
                }
            assert names["base"].dtype == getattr(torch, settings.model.dtype)
    return results, bench


def write_texts(place, pairs=False):
    """Write texts of lengths that differ; class c uses words of its own."""
    draws = np.random.default_rng(0)
    with place.open("w") as file:
        for number in range(72):
            kind = number % len(CLASSES)
            words = [WORDS[kind * 8 + draws.integers(8)] for _ in range(1 + draws.integers(9))]
            row = {"text": " ".join(words), "label": CLASSES[kind]}
            if pairs:
                row |= {"second": " ".join(words[::-1])}
            file.write(json.dumps(row) + "\n")
    return place


def end_of_text(folder):
    """Write the tokenizer of a language model that pads nothing, as GPT-2's."""
    return write_word_tokenizer(
        folder, ("<|endoftext|>",), eos_token="<|endoftext|>", unk_token="<|endoftext|>"
    )


def test_gpt2_as_published(tmp_path):
    model = write_text_model(
        tmp_path / "model", "gpt2", "AutoModelForCausalLM", end_of_text,
        pad_token_id=None, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    check_texts(tmp_path, model)


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "llama"])
def test_texts(name, tmp_path):
    check_texts(tmp_path, write_text_model(tmp_path / "model", name))


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_texts_in_bfloat16(name, tmp_path):
    check_texts(tmp_path, write_text_model(tmp_path / "model", name), {"model.dtype": "bfloat16"})


def test_weights_are_of_the_settings_type_whatever_the_files(tmp_path):
    model = write_text_model(tmp_path / "model", "bert", dtype=torch.bfloat16)
    assert json.loads((model / "config.json").read_text())["dtype"] == "bfloat16"
    check_texts(tmp_path, model)


def test_pairs_of_texts(tmp_path):
    model = write_text_model(tmp_path / "model", "bert")
    settings = {"data.text-column": "text+second"}
    check_texts(tmp_path, model, settings, pairs=True)


def check_texts(folder, model, more=None, *, pairs=False):
    settings = from_flat({
        **SMALL, "task.name": "text-classification", "task.model": str(model),
        "data.path": str(write_texts(folder / "texts.jsonl", pairs)),
        "run.results": str(folder / "run"), **(more or {}),
    })  # fmt: skip
    rough = 1e-3 if settings.model.dtype == "bfloat16" else 1e-5
    results, bench = check_cards(settings, run_in_process(settings), rough)
    for entry in results["clients"]:
        mask = bench.client(entry["client"]).test["attention_mask"]
        assert len(set(mask.sum(1).tolist())) > 1
        check_use(bench, entry, rough)


def check_use(bench, entry, tolerance=1e-5):
    """Run a card on raw inputs; compare what it predicts with the results; return its
    names.
    """
    folder = Path(bench.settings.run.results) / "clients" / str(entry["client"])
    card = score_card(folder, bench, entry["client"])
    assert card.loss == pytest.approx(entry["personalized"]["loss"], rel=tolerance)
    assert card.accuracy == pytest.approx(entry["personalized"]["accuracy"])
    return card.names


@pytest.mark.parametrize(("name", "side"), [("vit", 0), ("mobilevit", 0), ("mobilevit", 64)])
def test_images(name, side, tmp_path):
    write_coloured_images(tmp_path / "images", CLASSES, 60)
    settings = from_flat({
        **SMALL, "task.name": "image-classification", "data.path": str(tmp_path / "images"),
        "task.model": str(write_image_model(tmp_path / "model", name)), "method": "fedit_ft",
        "data.image-size": side, "run.results": str(tmp_path / "run"),
    })  # fmt: skip
    results, bench = check_cards(settings, run_in_process(settings))
    for entry in results["clients"]:
        raw, _ = raw_contents(bench, entry["client"])
        assert raw["images"][0].size != (side or SIDE, side or SIDE)
        check_use(bench, entry)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_digits(dtype, tmp_path):
    settings = from_flat({
        **SMALL, "task.model": str(make_tiny_digits_vit(tmp_path / "model")),
        "run.results": str(tmp_path / "run"), "model.dtype": dtype, "data.train-samples": 20,
    })  # fmt: skip
    rough = 1e-3 if dtype == "bfloat16" else 1e-5
    results, bench = check_cards(settings, run_in_process(settings), rough)
    for entry in results["clients"]:
        check_use(bench, entry, rough)


def write_questions(place, options):
    with place.open("w") as file:
        for number in range(60):
            kind = number % 3
            row = {"prompt": f"Which of these {'is' * (number % 5)} good, {kind}? Answer:",
                   "answer": ["yes", "no", "a place"][kind]}  # fmt: skip
            if options:
                row["options"] = ["yes", "no", "a place"]
            file.write(json.dumps(row) + "\n")
    return place


def language_settings(folder, task, options, more=None):
    return from_flat({
        **SMALL, "task.name": task, "task.model": str(make_tiny_llama(folder / "model")),
        "data.path": str(write_questions(folder / "rows.jsonl", options)), "data.max-tokens": 64,
        "data.options-column": "options" if options else "", "task.max-new-tokens": 4,
        "run.results": str(folder / "run"), "data.test-samples": 8, **(more or {}),
    })  # fmt: skip


def bart_decoder(folder):
    """Replace a model by one that counts positions from the first column, and let its tokenizer
    frame every text, as BART's does.
    """
    torch.manual_seed(0)
    BartForCausalLM(
        BartConfig(vocab_size=320, d_model=16, decoder_layers=2, decoder_attention_heads=2,
                   decoder_ffn_dim=16, is_decoder=True, init_std=0.2, forced_eos_token_id=1)
    ).save_pretrained(folder)  # fmt: skip
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    begin, end = tokenizer.bos_token, tokenizer.eos_token
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}",
        special_tokens=[(begin, tokenizer.bos_token_id), (end, tokenizer.eos_token_id)],
    )
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize(
    ("score", "change"), [("sum", None), ("mean", None), ("mean", bart_decoder)]
)
def test_options(score, change, tmp_path):
    settings = language_settings(tmp_path, "multiple-choice", True, {"task.option-score": score})
    if change:
        change(tmp_path / "model")
    results, bench = check_cards(settings, run_in_process(settings))
    for entry in results["clients"]:
        check_use(bench, entry, 1e-4)


def check_answers(settings):
    """Compare what the clients' cards write with the results; yield the names that each makes."""
    results, bench = check_cards(settings, run_in_process(settings))
    for entry in results["clients"]:
        mask = bench.client(entry["client"]).test["attention_mask"]
        assert len(set(mask.sum(1).tolist())) > 1
        yield check_use(bench, entry)


@pytest.mark.parametrize("change", [None, bart_decoder], ids=["llama", "bart"])
def test_answers(change, tmp_path):
    settings = language_settings(tmp_path, "instruction", False)
    if change:
        change(tmp_path / "model")
    for names in check_answers(settings):
        assert names["model"].get_base_model().generation_config.forced_eos_token_id is None


@pytest.mark.parametrize("template", [CHATML, ""], ids=["its own template", "plain"])
def test_answers_of_chats_end_with_their_turn(template, tmp_path):
    settings = language_settings(tmp_path, "instruction", False)
    folder, ends = tmp_path / "model", [1]
    if template:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
        tokenizer.chat_template = template
        tokenizer.save_pretrained(folder)
        model = LlamaForCausalLM.from_pretrained(folder)
        model.resize_token_embeddings(len(tokenizer))
        model.save_pretrained(folder)
        ends = [1, tokenizer.convert_tokens_to_ids("<|im_end|>")]
    rows = [json.loads(line) for line in Path(settings.data.path).read_text().splitlines()]
    with Path(settings.data.path).open("w") as file:
        for row in rows:
            turns = [{"role": "user", "content": row["prompt"]},
                     {"role": "assistant", "content": row["answer"]}]  # fmt: skip
            file.write(json.dumps({"messages": turns}) + "\n")
    for names in check_answers(settings):
        assert names["greedy"].eos_token_id == ends
