"""The code on a model card, run as it stands, gives the numbers of the results."""

import json
import re
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from architectures import SIDE, write_image_model, write_text_model, write_word_tokenizer
from coloured_images import write_coloured_images
from PIL import Image
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
from potara_flwr.tasks.digits import MEAN, STD
from potara_flwr.tasks.text_metrics import METRICS
from potara_flwr.tasks.workbench import Workbench

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


def blocks(folder):
    """Return the blocks of code on a card."""
    return re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)


def executed(folder):
    """Return the names that the first block of a card makes."""
    names = {}
    exec(blocks(folder)[0], names)
    assert not names["model"].training
    return names


class Plain:
    """A model as a card loads it, as a task calls it."""

    def __init__(self, model):
        self.model = model

    def inputs(self, batch):
        kept = {name: at for name, at in batch.items() if not name.startswith("labels")}
        return {
            name: at.item() if not at.ndim else
            at.to(self.model.get_base_model().dtype) if at.is_floating_point() else at
            for name, at in kept.items()
        }  # fmt: skip

    @torch.no_grad()
    def __call__(self, batch):
        if "logits_to_keep" not in batch:
            return self.model(**self.inputs(batch)).logits
        rows = []  # of a language model: each alone, without padding
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"] > 0, strict=True):
            found = self.model(input_ids=ids[mask][None]).logits[0]
            row = found.new_zeros(len(ids), found.shape[1])
            row[mask] = found
            rows.append(row[-int(batch["logits_to_keep"]) :])
        return torch.stack(rows)

    @torch.no_grad()
    def generate(self, batch, max_new_tokens, stop):
        written = torch.full((len(batch["input_ids"]), max_new_tokens), stop[0])
        for row, ids in enumerate(batch["input_ids"]):
            text = ids[batch["attention_mask"][row] > 0].tolist()
            for column in range(max_new_tokens):
                text.append(self.model(input_ids=torch.tensor([text])).logits[0, -1].argmax())
                written[row, column] = text[-1]
                if text[-1] in stop:
                    break
        return written


def check_cards(settings, folder, tolerance=1e-5):
    """Compare what every client's personalized and federated cards give with the results."""
    results, bench = read_results(folder), Workbench(settings)
    assert len(results["clients"]) == 2
    found = {}
    for entry in results["clients"]:
        data = bench.client(entry["client"])
        told = {
            folder / "clients" / str(entry["client"]): entry["personalized"],
            folder / "federated": {key: entry[key]["federated"] for key in ("accuracy", "loss")},
        }
        for place, numbers in told.items():
            names = executed(place)
            losses, scores = bench.task.scores(Plain(names["model"]), data.test)
            assert losses.double().mean().item() == pytest.approx(numbers["loss"], rel=tolerance)
            assert scores.double().mean().item() == pytest.approx(numbers["accuracy"])
            if data.classes:
                assert names["model"].config.id2label == dict(enumerate(data.classes))
                assert names["model"].config.label2id == {
                    name: at for at, name in enumerate(data.classes)
                }
            assert names["base"].dtype == getattr(torch, settings.model.dtype)
            found.setdefault(entry["client"], names)
    return results, bench, found


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
    results, bench, cards = check_cards(settings, run_in_process(settings), rough)
    for entry in results["clients"]:
        names, test = cards[entry["client"]], bench.client(entry["client"]).test
        texts = [
            names["tokenizer"].decode(ids[mask > 0]).split()
            for ids, mask in zip(test["input_ids"], test["attention_mask"], strict=True)
        ]
        if pairs:
            names["first_texts"] = [" ".join(words[: len(words) // 2]) for words in texts]
            names["second_texts"] = [" ".join(words[len(words) // 2 :]) for words in texts]
        else:
            names["texts"] = [" ".join(words) for words in texts]
        assert len(set(map(len, texts))) > 1
        check_use(names, settings, entry, test["labels"], rough)


def check_use(names, settings, entry, labels, tolerance=1e-5):
    """Run a card's second block on raw inputs; compare what it predicts with the results."""
    folder = settings.run.results
    exec(blocks(Path(folder) / "clients" / str(entry["client"]))[1], names)
    loss = torch.nn.functional.cross_entropy(names["logits"].float(), labels).item()
    assert loss == pytest.approx(entry["personalized"]["loss"], rel=tolerance)
    classes = list(names["model"].config.label2id)
    right = [at == classes[label] for at, label in zip(names["predicted"], labels, strict=True)]
    assert sum(right) / len(right) == pytest.approx(entry["personalized"]["accuracy"])


@pytest.mark.parametrize(("name", "side"), [("vit", 0), ("mobilevit", 0), ("mobilevit", 64)])
def test_images(name, side, tmp_path):
    write_coloured_images(tmp_path / "images", CLASSES, 60)
    settings = from_flat({
        **SMALL, "task.name": "image-classification", "data.path": str(tmp_path / "images"),
        "task.model": str(write_image_model(tmp_path / "model", name)), "method": "fedit_ft",
        "data.image-size": side, "run.results": str(tmp_path / "run"),
    })  # fmt: skip
    results, bench, cards = check_cards(settings, run_in_process(settings))
    for entry in results["clients"]:
        names, test = cards[entry["client"]], bench.client(entry["client"]).test
        names["images"] = [
            Image.fromarray(pixels.permute(1, 2, 0).numpy()) for pixels in test["pixel_values"]
        ]
        assert names["images"][0].size == (side or SIDE, side or SIDE)
        check_use(names, settings, entry, test["labels"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_digits(dtype, tmp_path):
    settings = from_flat({
        **SMALL, "task.model": str(make_tiny_digits_vit(tmp_path / "model")),
        "run.results": str(tmp_path / "run"), "model.dtype": dtype, "data.train-samples": 20,
    })  # fmt: skip
    rough = 1e-3 if dtype == "bfloat16" else 1e-5
    results, bench, cards = check_cards(settings, run_in_process(settings), rough)
    for entry in results["clients"]:
        names, test = cards[entry["client"]], bench.client(entry["client"]).test
        names["images"] = ((test["pixel_values"] * STD + MEAN) * 255).round()
        check_use(names, settings, entry, test["labels"], rough)


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


def texts_of(tokenizer, test):
    """Return the prompts of samples, and the texts of their answers."""
    prompts = [
        tokenizer.decode(ids[mask > 0], skip_special_tokens=True)
        for ids, mask in zip(test["input_ids"], test["attention_mask"], strict=True)
    ]
    answers = [
        [tokenizer.decode(ids[real > 0], skip_special_tokens=True).strip() for ids, real in row]
        for row in (
            zip(*one, strict=True)
            for one in zip(test["labels_answers"], test["labels_mask"], strict=True)
        )
    ]
    return prompts, answers


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
    folder = run_in_process(settings)
    results, bench, cards = check_cards(settings, folder)
    for entry in results["clients"]:
        names, test = cards[entry["client"]], bench.client(entry["client"]).test
        right, losses = 0, []
        rows = zip(*texts_of(names["tokenizer"], test), test["labels"].tolist(), strict=True)
        for prompt, options, label in rows:
            names |= {"prompt": prompt, "options": options}
            exec(blocks(folder / "clients" / str(entry["client"]))[1], names)
            right += names["predicted"] == options[label]
            losses.append(-names["scores"].log_softmax(0)[label].item())
        told = entry["personalized"]
        assert sum(losses) / len(losses) == pytest.approx(told["loss"], rel=1e-4)
        assert right / len(losses) == pytest.approx(told["accuracy"])


def check_answers(settings, prompts_of=None):
    """Compare what the clients' cards write with the results; yield the names that each makes."""
    folder = run_in_process(settings)
    results, bench, cards = check_cards(settings, folder)
    for entry in results["clients"]:
        names, test = cards[entry["client"]], bench.client(entry["client"]).test
        names["prompts"], right = texts_of(names["tokenizer"], test)
        assert len(set(map(len, names["prompts"]))) > 1
        if prompts_of:
            names["prompts"] = [prompts_of(text) for text in names["prompts"]]
        exec(blocks(folder / "clients" / str(entry["client"]))[1], names)
        scores = [
            METRICS[settings.task.metric](answer.strip(), row)
            for answer, row in zip(names["answers"], right, strict=True)
        ]
        assert sum(scores) / len(scores) == pytest.approx(entry["personalized"]["accuracy"])
        yield names


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
    asked = sorted({row["prompt"] for row in rows}, key=len, reverse=True)

    def chat(text):
        return [{"role": "user", "content": next(one for one in asked if one in text)}]

    for names in check_answers(settings, chat):
        assert names["greedy"].eos_token_id == ends
