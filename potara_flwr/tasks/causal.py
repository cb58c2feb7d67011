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
from potara_flwr.models.base_models import load_causal_lm
from potara_flwr.models.pretrained import check_length, tokenizer_of
from potara_flwr.settings.schema import Settings
from potara_flwr.tasks.base import Batch, ClientData, Samples, Task, split_client, take
from potara_flwr.tasks.shared_prompt import most_columns, rows_apart, rows_shared

if TYPE_CHECKING:
    import datasets

POSITION = "position of the row"
"""Column that says where a row is in its file or split, for error messages."""


class CausalTask(Task):
    """A task of a causal language model, which has no head of its own."""

    auto_class = "AutoModelForCausalLM"
    head_modules: tuple[str, ...] = ()
    most_columns = 0
    """Of a row in which the answers of a question share their prompt; known with the model."""

    def load_base_model(self) -> nn.Module:
        """Load the language model."""
        model = load_causal_lm(self.settings)
        self.most_columns = most_columns(model, self.settings.data.max_tokens)
        return model


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


def batch_of(samples: Samples, answers: Tensor, weights: Tensor, most_columns: int) -> Batch:
    """Return a batch of some answers of every sample.

    Parameters
    ----------
    answers, weights : Tensor
        Token ids and their weights, shape (n, k, tokens); a weight of 0 is padding.
    most_columns : int
        Of a row in which the answers share their prompt; longer ones have a row each.

    Returns
    -------
    dict
        Model inputs (see :mod:`potara_flwr.tasks.shared_prompt`), and ``labels_answers`` and
        ``labels_weights`` without padding columns.
    """
    used = weights > 0
    num_answers, length = int(used.any(2).sum(1).max()), int(used.sum(2).max())
    answers, weights = answers[:, :num_answers, :length], weights[:, :num_answers, :length]
    prompts, mask = prompts_of(samples)
    columns = prompts.shape[1] + num_answers * (length - 1)
    rows = rows_shared if num_answers > 1 and columns <= most_columns else rows_apart
    return {
        **rows(prompts, mask, answers, weights),
        "labels": samples["labels"],
        "labels_answers": answers,
        "labels_weights": weights,
    }


def answer_scores(log_probs: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted log-likelihood of each answer, (n, k); −∞ where there is no answer."""
    scores = (log_probs * weights).sum(2)
    return scores.masked_fill(~(weights > 0).any(2), -torch.inf)
