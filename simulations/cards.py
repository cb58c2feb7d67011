"""The code on a model card, run as it stands on all test samples of a client in one padded batch.

Samples are what stands in the client's data, not what a run has made of it, so that a card's way of
preparing them is tried too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from potara_flwr.data.clients import client_rows
from potara_flwr.data.conversations import Conversation
from potara_flwr.data.examples import Example, listing_options
from potara_flwr.data.questions import client_questions
from potara_flwr.models.lora import KEPT
from potara_flwr.settings.schema import Settings
from potara_flwr.tasks.base import Batch, split_client, take
from potara_flwr.tasks.digits import MEAN, STD
from potara_flwr.tasks.text_metrics import METRICS
from potara_flwr.tasks.workbench import Workbench

Names = dict[str, Any]
"""What a card's code makes, by name."""


def load_by_card(folder: Path) -> Names:
    """Run the first block of the card in an adapter's folder, which loads ``model``."""
    names: Names = {}
    _run_block(folder, 0, names)
    return names


def use_by_card(folder: Path, names: Names, **inputs: Any) -> None:
    """Run the second block of a card on raw inputs, with the names that the first has made, and to
    which it adds its own.
    """
    names.update(inputs)
    _run_block(folder, 1, names)


def _run_block(folder: Path, number: int, names: Names) -> None:
    card = (folder / "README.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", card, re.DOTALL)[number]
    exec(compile(code, f"block {number} of the card", "exec"), names)  # noqa: S102


@dataclass(frozen=True)
class CardScore:
    """What a card's code gives on a client's test samples."""

    names: Names
    accuracy: float
    loss: float


def score_card(folder: Path, bench: Workbench, client: int) -> CardScore:
    """Run both blocks of a card on a client's test samples, and score what it says of them.

    Parameters
    ----------
    folder : Path
        Of the adapter.
    bench : Workbench
        Of the settings of its run.
    """
    names = load_by_card(folder)
    scores = {"instruction": _score_answers, "multiple-choice": _score_options}
    score = scores.get(bench.settings.task.name, _score_classes)
    return CardScore(names, *score(folder, names, bench, client))


def _score_classes(
    folder: Path, names: Names, bench: Workbench, client: int
) -> tuple[float, float]:
    inputs, labels = raw_contents(bench, client)
    use_by_card(folder, names, **inputs)
    right = [bench.client(client).classes[label] for label in labels.tolist()]
    hits = [said == label for said, label in zip(names["predicted"], right, strict=True)]
    loss = torch.nn.functional.cross_entropy(names["logits"].float(), labels)
    return sum(hits) / len(hits), loss.item()


def raw_contents(bench: Workbench, client: int) -> tuple[dict[str, Any], Tensor]:
    """Return a client's test images or texts as its data has them, by the name that a card gives
    them, and the numbers of their classes, shape (n,).
    """
    settings = bench.settings
    if settings.task.name == "digits":
        test = bench.client(client).test
        return {"images": ((test["pixel_values"] * STD + MEAN) * 255).round()}, test["labels"]
    content = "image" if settings.task.name == "image-classification" else "text"
    held = client_rows(settings, client, content)
    split, _ = split_client(settings, client, len(held.rows), held.tested)
    rows = held.rows.select(split["test"].numpy())
    columns = [list(rows[column]) for _, column in held.source.contents]
    names = ["first_texts", "second_texts"] if len(columns) == 2 else [f"{content}s"]
    return dict(zip(names, columns, strict=True)), held.labels[split["test"]]


def _score_options(
    folder: Path, names: Names, bench: Workbench, client: int
) -> tuple[float, float]:
    hits, losses = [], []
    for asked in _questions(bench.settings, client):
        assert isinstance(asked, Example)
        use_by_card(folder, names, prompt=asked.prompt, options=list(asked.answers))
        hits.append(names["predicted"] == asked.answers[asked.label])
        losses.append(-names["scores"].log_softmax(0)[asked.label].item())
    return sum(hits) / len(hits), sum(losses) / len(losses)


def _score_answers(
    folder: Path, names: Names, bench: Workbench, client: int
) -> tuple[float, float]:
    """Score what a card writes. It computes no loss: this is that of the model it has loaded."""
    asked = [_asked(one) for one in _questions(bench.settings, client)]
    use_by_card(folder, names, prompts=[prompt for prompt, _ in asked])
    metric = METRICS[bench.settings.task.metric]
    scores = [
        metric(said.strip(), right)
        for said, (_, right) in zip(names["answers"], asked, strict=True)
    ]
    batch = bench.task.collate(take(bench.client(client).test, slice(None)))
    losses = bench.task.losses(PlainModel(names["model"])(batch), batch)
    return sum(scores) / len(scores), losses.double().mean().item()


def _questions(settings: Settings, client: int) -> list[Example | Conversation]:
    """Return a client's test questions as its data has them."""
    held = client_questions(settings, client)
    split, _ = split_client(settings, client, len(held.rows), held.tested)
    return [held.reader.read(row) for row in held.rows.select(split["test"].numpy())]


def _asked(one: Example | Conversation) -> tuple[str | list[dict[str, str]], Sequence[str]]:
    """Return a question as a card of ``instruction`` takes it, and the right answers."""
    if isinstance(one, Example):
        return listing_options(one), one.answers
    *before, last = one.messages
    return [{"role": said.role, "content": said.content} for said in before], [last.content]


class PlainModel:
    """A model as a card loads it, as a task calls it."""

    def __init__(self, model: PeftModel) -> None:
        self.model = model

    @torch.no_grad()
    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the logits of a batch; of one for a language model those of the last columns, each
        text alone and without padding, where there are 0.
        """
        if KEPT not in batch:
            logits: Tensor = self.model(**self._inputs(batch))[0]
            return logits
        rows = []
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"] > 0, strict=True):
            found = self.model(input_ids=ids[mask][None]).logits[0]
            row = found.new_zeros(len(ids), found.shape[-1])
            row[mask] = found
            rows.append(row[-int(batch[KEPT]) :])
        return torch.stack(rows)

    def _inputs(self, batch: Mapping[str, Tensor]) -> Batch:
        base: Any = self.model.get_base_model()
        return {
            name: tensor.to(base.dtype) if tensor.is_floating_point() else tensor
            for name, tensor in batch.items()
            if not name.startswith("labels")
        }

    @torch.no_grad()
    def generate(self, batch: Batch, max_new_tokens: int, stop: Sequence[int]) -> Tensor:
        """Return the most likely token after token of each prompt, alone; (n, new tokens)."""
        written = torch.full((len(batch["input_ids"]), max_new_tokens), stop[0])
        for row, ids in enumerate(batch["input_ids"]):
            text = ids[batch["attention_mask"][row] > 0].tolist()
            for column in range(max_new_tokens):
                logits = self.model(input_ids=torch.tensor([text])).logits
                text.append(logits[0, -1].argmax().item())
                written[row, column] = text[-1]
                if text[-1] in stop:
                    break
        return written
