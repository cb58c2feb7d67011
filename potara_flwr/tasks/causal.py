"""What the tasks of a causal language model share: tokens, batches, log-probabilities.

Prompts are padded on the left and answers on the right, so that in every row the answer begins in
the same column: logits are computed for its columns alone, whatever the lengths of the prompts, and
generation goes on where the prompt ends (:mod:`potara_flwr.models.padding`: models that this
disturbs). A prompt is kept once however many options it has.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from potara_flwr.data import benchmarks, conversations, examples
from potara_flwr.data import questions as questions_module
from potara_flwr.data.prepared import POSITION, Columns, prepare_rows
from potara_flwr.data.questions import Questions, client_questions, unanswered_questions
from potara_flwr.models.base_models import load_causal_lm
from potara_flwr.models.padding import padding_side
from potara_flwr.models.pretrained import (
    check_length,
    check_tokens,
    load_tokenizer,
    tokenizer_of,
)
from potara_flwr.settings.schema import Settings
from potara_flwr.tasks import chat, encoding
from potara_flwr.tasks.base import (
    Batch,
    ClientData,
    Inputs,
    Prediction,
    Samples,
    Task,
    rounded,
    split_client,
    take,
)
from potara_flwr.tasks.encoding import ENCODED, encode_asked, encode_row, template_of
from potara_flwr.tasks.shared_prompt import most_columns, rows_apart, rows_shared

if TYPE_CHECKING:
    import datasets


class CausalTask(Task):
    """A task of a causal language model, which has no head of its own."""

    auto_class = "AutoModelForCausalLM"
    head_modules: tuple[str, ...] = ()
    most_columns = 0
    """Of a row in which the answers of a question share their prompt; known with the model."""

    def load_base_model(self) -> nn.Module:
        """Load the language model."""
        model = load_causal_lm(self.settings)
        self.padding_side = padding_side(model, self.settings.task.model)
        if self.padding_side == "left":
            self.most_columns = most_columns(model, self.settings.data.max_tokens)
        return model

    def processor(self) -> PreTrainedTokenizerBase:
        """Return the model's tokenizer."""
        return load_tokenizer(self.settings.task.model)


def load_client(
    settings: Settings, client: int, *, instruct: bool, score: Literal["sum", "mean"]
) -> ClientData:
    """Load and tokenize the questions of one client.

    Parameters
    ----------
    instruct : bool
        Write the options into the prompt, and end every answer with the end-of-text token.
    score : str
        Whether an answer's score is the sum or the mean over its tokens.

    Returns
    -------
    ClientData
        With samples of ``input_ids`` and ``attention_mask`` (n, prompt tokens); ``labels`` (n,),
        the position of the answer that is trained; ``labels_answers``, ``labels_mask`` and
        ``labels_weights`` (n, answers, answer tokens), the ids of every answer, 0 on padding, and
        the weight of each token in its score, also 0 where somebody else speaks; ``labels_open``
        (n,), true where there are no options: every answer is right; ``labels_reply`` (n,), the
        token of the answer that the assistant's last turn begins with.

    Raises
    ------
    SettingsError
        A row makes no question, or has an answer that does not fit; names the data set, the column
        and the client.
    """
    questions = client_questions(settings, client)
    split, rows = split_client(
        settings, client, len(questions.rows), questions.tested, questions.source
    )
    encoded = {
        part: _encode(questions, at, settings, client, instruct)[:] for part, at in split.items()
    }
    # All parts have one size, so that they can be joined.
    size = _size_of(encoded.values())
    cut = sum(sum(part["cut"]) for part in encoded.values())
    check_length(settings.task.model, size[0] + size[2], f"client {client}")
    parts = {part: _by_length(_samples(columns, size, score)) for part, columns in encoded.items()}
    for samples in parts.values():
        for ids in (samples["input_ids"], samples["labels_answers"]):
            check_tokens(settings.task.model, ids, f"client {client}")
    return ClientData(
        client,
        parts["train"],
        parts["calibration"],
        parts["test"],
        rows=rows.model_copy(update={"cut": cut}),
        source=questions.shared,
    )


def load_inputs(settings: Settings, *, instruct: bool, score: Literal["sum", "mean"]) -> Inputs:
    """Load and tokenize all rows of ``data.path``, which need no answers, in their order.

    Parameters
    ----------
    instruct, score
        As in :func:`load_client`.

    Raises
    ------
    SettingsError
        A row asks nothing, or has an option that does not fit; names data set, row and column.
    """
    asked = unanswered_questions(settings)
    tokenizer, _ = tokenizer_of(settings.task.model)
    template = template_of(tokenizer, settings)
    encoded: Columns = {name: [] for name in (*ENCODED, "options")}
    for position, row in enumerate(asked.rows):
        where = f"{asked.source}, row {position}"
        for name, value in encode_asked(
            asked.reader, row, tokenizer, settings.data.max_tokens, instruct, where, template
        ).items():
            encoded[name].append(value)
    size = _size_of([encoded])
    check_length(settings.task.model, size[0] + size[2], asked.source)
    samples = _samples(encoded, size, score)
    for ids in (samples["input_ids"], samples["labels_answers"]):
        check_tokens(settings.task.model, ids, asked.source)
    return Inputs(samples, encoded["options"], sum(encoded["cut"]))


def _encode(
    questions: Questions, at: Tensor, settings: Settings, client: int, instruct: bool
) -> datasets.Dataset:
    """Tokenize the rows at some positions; what has been tokenized before comes from the cache."""
    tokenizer, version = tokenizer_of(settings.task.model)
    where = f"client {client}: {questions.source}"
    max_tokens = settings.data.max_tokens
    template = template_of(tokenizer, settings)

    def prepare(columns: Columns) -> Columns:
        encoded: Columns = {name: [] for name in ENCODED}
        for values in zip(*columns.values(), strict=True):
            row = dict(zip(columns, values, strict=True))
            place = f"{where}, row {row.pop(POSITION)}"
            for name, value in encode_row(
                questions.reader, row, tokenizer, max_tokens, instruct, place, template
            ).items():
                encoded[name].append(value)
        return encoded

    return prepare_rows(
        questions.rows.select(at.numpy()), prepare, astuple(questions.reader), version, max_tokens,
        instruct, template, _sources(), positions=questions.positions[at].tolist(),
    )  # fmt: skip


@functools.cache
def _sources() -> str:
    """Return a hash of the code that turns a row into texts and texts into tokens."""
    modules = (benchmarks, chat, conversations, encoding, examples, questions_module)
    files = [str(module.__file__) for module in modules]
    return hashlib.sha256(
        b"".join(Path(file).read_bytes() for file in [*files, __file__])
    ).hexdigest()


def _size_of(encoded: Iterable[Mapping[str, list[Any]]]) -> tuple[int, int, int]:
    """Return the most prompt tokens, answers, and answer tokens of some rows."""
    prompts = [prompt for part in encoded for prompt in part["prompt"]]
    answers = [answers for part in encoded for answers in part["answers"]]
    longest = max(len(ids) for row in answers for ids in row)
    return max(map(len, prompts)), max(map(len, answers)), longest


def _samples(
    encoded: Mapping[str, list[Any]], size: tuple[int, int, int], score: Literal["sum", "mean"]
) -> Samples:
    """Pad the tokens of some rows to a size (prompt tokens, answers, answer tokens)."""
    n, (width, *answers_size) = len(encoded["label"]), size
    samples = {
        "input_ids": torch.zeros(n, width, dtype=torch.long),
        "attention_mask": torch.zeros(n, width, dtype=torch.long),
        "labels": torch.tensor(encoded["label"]),
        "labels_answers": torch.zeros(n, *answers_size, dtype=torch.long),
        "labels_mask": torch.zeros(n, *answers_size, dtype=torch.bool),
        "labels_weights": torch.zeros(n, *answers_size),
        "labels_open": torch.tensor(encoded["open"]),
        "labels_reply": torch.tensor(encoded["reply"]),
    }
    for row, (prompt, options, scored) in enumerate(
        zip(encoded["prompt"], encoded["answers"], encoded["scored"], strict=True)
    ):
        samples["input_ids"][row, -len(prompt) :] = torch.tensor(prompt)
        samples["attention_mask"][row, -len(prompt) :] = 1
        for column, ids in enumerate(options):
            samples["labels_answers"][row, column, : len(ids)] = torch.tensor(ids)
            samples["labels_mask"][row, column, : len(ids)] = True
            counts = torch.tensor(scored[column]).float()
            samples["labels_weights"][row, column, : len(ids)] = (
                counts if score == "sum" else counts / counts.sum()
            )
    return samples


def _by_length(samples: Samples) -> Samples:
    """Sort samples by length, so that a batch has little padding; training shuffles anyway."""
    lengths = samples["attention_mask"].sum(1) + samples["labels_mask"].sum(2).amax(1)
    return take(samples, lengths.argsort(stable=True))


def prompts_of(samples: Samples) -> tuple[Tensor, Tensor]:
    """Return token ids and mask of the prompts, without columns that are padding only."""
    longest = int(samples["attention_mask"].sum(1).max())
    return samples["input_ids"][:, -longest:], samples["attention_mask"][:, -longest:]


def batch_of(samples: Samples, most_columns: int, chosen: Tensor | None = None) -> Batch:
    """Return a batch of every sample with all of its answers, or with one.

    Parameters
    ----------
    chosen : Tensor, optional
        Position of the one answer of each sample, shape (n,).
    most_columns : int
        Of a row in which the answers share their prompt; longer ones have a row each.

    Returns
    -------
    dict
        Model inputs (see :mod:`potara_flwr.tasks.shared_prompt`), and ``labels_answers``,
        ``labels_mask`` and ``labels_weights`` without padding columns.
    """
    answers, real, weights = (
        samples[name]
        if chosen is None
        else samples[name][torch.arange(len(chosen), device=chosen.device), chosen][:, None]
        for name in ("labels_answers", "labels_mask", "labels_weights")
    )
    num_answers, length = int(real.any(2).sum(1).max()), int(real.sum(2).max())
    answers, real, weights = (
        tensor[:, :num_answers, :length] for tensor in (answers, real, weights)
    )
    prompts, mask = prompts_of(samples)
    columns = prompts.shape[1] + num_answers * (length - 1)
    rows = rows_shared if num_answers > 1 and columns <= most_columns else rows_apart
    return {
        **rows(prompts, mask, answers, real),
        "labels": samples["labels"],
        "labels_answers": answers,
        "labels_mask": real,
        "labels_weights": weights,
    }


def answer_scores(log_probs: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted log-likelihood of each answer, (n, k); −∞ where there is no answer."""
    scores = (log_probs * weights).sum(2)
    return scores.masked_fill(~(weights > 0).any(2), -torch.inf)


def chosen_option(options: Sequence[str], scores: Tensor) -> Prediction:
    """Return what is said of a question: its best option, and the scores of all.

    Parameters
    ----------
    scores : Tensor
        Of the options, and −∞ behind them, shape (k,).
    """
    scores = scores[: len(options)].double()
    number = int(scores.argmax())
    return {
        "option": options[number],
        "number": number,
        "scores": rounded(scores),
        "probabilities": rounded(scores.softmax(0)),
    }
