"""What the tasks of a causal language model share: tokens, batches, log-probabilities.

Prompts are padded on the left and answers on the right, so that in every row the answer begins in
the same column: logits are computed for its columns alone, whatever the lengths of the prompts, and
generation goes on where the prompt ends. A prompt is kept once however many options it has.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from potara_flwr.core.errors import SettingsError
from potara_flwr.data import benchmarks, examples
from potara_flwr.data import questions as questions_module
from potara_flwr.data.examples import Row, RowError, listing_options
from potara_flwr.data.prepared import Columns, prepare_rows
from potara_flwr.data.questions import Questions, Reader, client_questions
from potara_flwr.models.pretrained import check_length, tokenizer_of
from potara_flwr.settings.schema import Settings
from potara_flwr.tasks.base import Batch, ClientData, Samples, split_client, take

if TYPE_CHECKING:
    import datasets

POSITION = "position of the row"
"""Column that says where a row is in its file or split, for error messages."""


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
        the position of the answer that is trained; ``labels_answers`` and ``labels_weights`` (n,
        answers, answer tokens), the ids of every answer and the weight of each token in its score,
        0 on padding; ``labels_open`` (n,), true where there are no options: every answer is right.

    Raises
    ------
    SettingsError
        A row makes no question, or has an answer that does not fit; names the data set, the column
        and the client.
    """
    questions = client_questions(settings, client)
    split = split_client(settings, client, len(questions.rows), questions.tested, questions.source)
    encoded = {
        part: _encode(questions, at, settings, client, instruct)[:] for part, at in split.items()
    }
    # All parts have one size, so that they can be joined.
    size = (
        max(len(prompt) for part in encoded.values() for prompt in part["prompt"]),
        max(len(answers) for part in encoded.values() for answers in part["answers"]),
        max(len(i) for part in encoded.values() for answers in part["answers"] for i in answers),
    )
    check_length(settings.task.model, size[0] + size[2], f"client {client}")
    parts = {part: _samples(columns, size, score) for part, columns in encoded.items()}
    return ClientData(
        client,
        parts["train"],
        parts["calibration"],
        parts["test"],
        held_out=settings.calibration.source == "held-out",
    )


def _encode(
    questions: Questions, at: Tensor, settings: Settings, client: int, instruct: bool
) -> datasets.Dataset:
    """Tokenize the rows at some positions; what has been tokenized before comes from the cache."""
    tokenizer, version = tokenizer_of(settings.task.model)
    where = f"client {client}: {questions.source}"
    max_tokens = settings.data.max_tokens

    def prepare(columns: Columns) -> Columns:
        encoded: Columns = {"prompt": [], "answers": [], "label": [], "open": []}
        for values in zip(*columns.values(), strict=True):
            row = dict(zip(columns, values, strict=True))
            place = f"{where}, row {row.pop(POSITION)}"
            for name, value in encode_row(
                questions.reader, row, tokenizer, max_tokens, instruct, place
            ).items():
                encoded[name].append(value)
        return encoded

    rows = questions.rows.select(at.numpy())
    rows = rows.add_column(POSITION, questions.positions[at].numpy())
    return prepare_rows(
        rows, prepare, astuple(questions.reader), version, max_tokens, instruct, _sources()
    )


@functools.cache
def _sources() -> str:
    """Return a hash of the code that turns a row into texts and texts into tokens."""
    files = [str(module.__file__) for module in (benchmarks, examples, questions_module)]
    return hashlib.sha256(
        b"".join(Path(file).read_bytes() for file in [*files, __file__])
    ).hexdigest()


def encode_row(
    reader: Reader,
    row: Row,
    tokenizer: PreTrainedTokenizerBase,
    max_tokens: int,
    instruct: bool,
    where: str,
) -> dict[str, Any]:
    """Tokenize one row: ids of the prompt and of each answer.

    Parameters
    ----------
    where : str
        The row in words, for error messages.

    Raises
    ------
    SettingsError
        The row makes no question, or its longest answer leaves no room for a prompt.
    """
    try:
        example = reader.read(row)
    except RowError as error:
        column, why = error.args
        raise SettingsError(f"{where}, column {column!r}: {why}") from None
    prompt = listing_options(example) if instruct else example.prompt
    stop = [tokenizer.eos_token_id] if instruct else []
    first = _first_tokens(tokenizer)
    asked = _ids(tokenizer, prompt)
    answers = [answer_ids(tokenizer, prompt, asked, text) + stop for text in example.answers]
    if not asked or not all(answers):
        raise SettingsError(f"{where}: one of its texts has no token of task.model")
    longest = max(map(len, answers))
    room = max_tokens - len(first) - longest
    if room < 1:
        raise SettingsError(
            f"{where}: its longest answer has {longest} tokens, which leaves no room for a prompt "
            f"in data.max-tokens (now {max_tokens}); raise it"
        )
    return {
        "prompt": first + asked[-room:],
        "answers": answers,
        "label": example.label,
        "open": not example.has_options,
    }


def answer_ids(
    tokenizer: PreTrainedTokenizerBase, prompt: str, asked: Sequence[int], answer: str
) -> list[int]:
    """Return the token ids of an answer behind a prompt, none of which spans the boundary.

    They are the rest of the ids of both texts together where these begin with the prompt's own
    (``asked``); where a token would span the boundary, the answer is tokenized by itself.
    """
    together = _ids(tokenizer, f"{prompt} {answer}")
    if together[: len(asked)] == list(asked):
        return together[len(asked) :]
    return _ids(tokenizer, f" {answer}")


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _first_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the beginning-of-text token, where the model's texts begin with it."""
    first: list[int] = tokenizer("")["input_ids"][:1]
    return first if first == [tokenizer.bos_token_id] else []


def _samples(
    encoded: dict[str, list[Any]], size: tuple[int, int, int], score: Literal["sum", "mean"]
) -> Samples:
    """Pad the tokens of some rows to a size (prompt tokens, answers, answer tokens), sort them by
    length.
    """
    n, (width, *answers_size) = len(encoded["label"]), size
    samples = {
        "input_ids": torch.zeros(n, width, dtype=torch.long),
        "attention_mask": torch.zeros(n, width, dtype=torch.long),
        "labels": torch.tensor(encoded["label"]),
        "labels_answers": torch.zeros(n, *answers_size, dtype=torch.long),
        "labels_weights": torch.zeros(n, *answers_size),
        "labels_open": torch.tensor(encoded["open"]),
    }
    for row, (prompt, options) in enumerate(
        zip(encoded["prompt"], encoded["answers"], strict=True)
    ):
        samples["input_ids"][row, -len(prompt) :] = torch.tensor(prompt)
        samples["attention_mask"][row, -len(prompt) :] = 1
        for column, ids in enumerate(options):
            samples["labels_answers"][row, column, : len(ids)] = torch.tensor(ids)
            samples["labels_weights"][row, column, : len(ids)] = (
                1.0 if score == "sum" else 1 / len(ids)
            )
    lengths = samples["attention_mask"].sum(1) + (samples["labels_weights"] > 0).sum(2).amax(1)
    # By length, so that a batch of them has little padding; training shuffles anyway.
    return take(samples, lengths.argsort(stable=True))


def prompts_of(samples: Samples) -> tuple[Tensor, Tensor]:
    """Return token ids and mask of the prompts, without columns that are padding only."""
    longest = int(samples["attention_mask"].sum(1).max())
    return samples["input_ids"][:, -longest:], samples["attention_mask"][:, -longest:]


def batch_of(samples: Samples, answers: Tensor, weights: Tensor) -> Batch:
    """Return a batch with one row for every answer of every sample.

    Parameters
    ----------
    answers, weights : Tensor
        Token ids and their weights, shape (n, k, tokens); a weight of 0 is padding.

    Returns
    -------
    dict
        Model inputs of n · k rows, whose last ``logits_to_keep`` columns predict the answers'
        tokens, and ``labels_answers`` and ``labels_weights`` without padding columns.
    """
    used = weights > 0
    num_answers, length = int(used.any(2).sum(1).max()), int(used.sum(2).max())
    answers, weights = answers[:, :num_answers, :length], weights[:, :num_answers, :length]
    prompts, mask = prompts_of(samples)
    # The last token of an answer predicts nothing that counts.
    rows = torch.cat([_per_answer(prompts, num_answers), answers[..., :-1]], dim=2).flatten(0, 1)
    real = torch.cat([_per_answer(mask, num_answers), (weights > 0).long()[..., :-1]], dim=2)
    real = real.flatten(0, 1)
    return {
        "input_ids": rows,
        "attention_mask": real,
        "position_ids": (real.cumsum(1) - 1).clamp(min=0),
        "logits_to_keep": torch.tensor(length),
        "labels": samples["labels"],
        "labels_answers": answers,
        "labels_weights": weights,
    }


def log_probabilities(logits: Tensor, batch: Batch) -> Tensor:
    """Return the log-probability of each token of each answer given what precedes it, in nats.

    Parameters
    ----------
    logits : Tensor
        Of the last ``logits_to_keep`` columns, shape (n · k, tokens, vocabulary).

    Returns
    -------
    Tensor
        Shape (n, k, tokens), float32; meaningless on padding.
    """
    answers = batch["labels_answers"]
    losses = nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), answers.flatten(), reduction="none"
    )
    return -losses.view_as(answers)


def answer_scores(log_probs: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted log-likelihood of each answer, (n, k); −∞ where there is no answer."""
    scores = (log_probs * weights).sum(2)
    return scores.masked_fill(~(weights > 0).any(2), -torch.inf)


def _per_answer(tensor: Tensor, num_answers: int) -> Tensor:
    return tensor[:, None].expand(-1, num_answers, -1)
