"""What the tasks of a causal language model share: tokens, batches, log-probabilities.

Prompts are padded on the left and answers on the right, so that in every row the answer begins in
the same column: logits are computed for its columns alone, whatever the lengths of the prompts, and
generation goes on where the prompt ends (:mod:`potara_flwr.models.padding`: models that this
disturbs). A prompt is kept once however many options it has.
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
from potara_flwr.data import benchmarks, conversations, examples
from potara_flwr.data import questions as questions_module
from potara_flwr.data.conversations import Conversation
from potara_flwr.data.examples import Example, Row, RowError, listing_options
from potara_flwr.data.prepared import Columns, prepare_rows
from potara_flwr.data.questions import Questions, Reader, client_questions
from potara_flwr.models.base_models import load_causal_lm
from potara_flwr.models.padding import padding_side
from potara_flwr.models.pretrained import check_length, check_tokens, tokenizer_of
from potara_flwr.settings.schema import Settings
from potara_flwr.tasks import chat
from potara_flwr.tasks.base import Batch, ClientData, Samples, Task, split_client, take
from potara_flwr.tasks.shared_prompt import most_columns, rows_apart, rows_shared

if TYPE_CHECKING:
    import datasets

ENCODED = ("prompt", "answers", "scored", "label", "open", "reply", "cut")
"""Of a row: token ids of the prompt and of each answer, which of these are scored, the position of
the answer that is trained, whether there are no options, the token of the answer with which the
last turn begins, whether ``data.max-tokens`` or a conversation without an end has cost it text."""
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
        self.padding_side = padding_side(model, self.settings.task.model)
        if self.padding_side == "left":
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
    size = (
        max(len(prompt) for part in encoded.values() for prompt in part["prompt"]),
        max(len(answers) for part in encoded.values() for answers in part["answers"]),
        max(len(i) for part in encoded.values() for answers in part["answers"] for i in answers),
    )
    held_out = settings.calibration.source == "held-out"
    cut = sum(
        sum(part["cut"]) for name, part in encoded.items() if held_out or name != "calibration"
    )
    check_length(settings.task.model, size[0] + size[2], f"client {client}")
    parts = {part: _samples(columns, size, score) for part, columns in encoded.items()}
    for samples in parts.values():
        for ids in (samples["input_ids"], samples["labels_answers"]):
            check_tokens(settings.task.model, ids, f"client {client}")
    return ClientData(
        client,
        parts["train"],
        parts["calibration"],
        parts["test"],
        held_out=held_out,
        rows=rows.model_copy(update={"cut": cut}),
        source=questions.shared,
    )


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

    rows = questions.rows.select(at.numpy())
    rows = rows.add_column(POSITION, questions.positions[at].numpy())
    return prepare_rows(
        rows, prepare, astuple(questions.reader), version, max_tokens, instruct, template,
        _sources(),
    )  # fmt: skip


@functools.cache
def _sources() -> str:
    """Return a hash of the code that turns a row into texts and texts into tokens."""
    modules = (benchmarks, chat, conversations, examples, questions_module)
    files = [str(module.__file__) for module in modules]
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
    template: str = "",
) -> dict[str, Any]:
    """Tokenize one row: what :data:`ENCODED` names.

    Parameters
    ----------
    where : str
        The row in words, for error messages.
    template : str
        The tokenizer's chat template; empty is our plain one.

    Raises
    ------
    SettingsError
        A row makes no question, or its longest answer leaves no room for a prompt.
    """
    try:
        example = reader.read(row)
        if isinstance(example, Conversation):
            return _encode_conversation(example, tokenizer, max_tokens, where, template)
    except RowError as error:
        column, why = error.args
        raise SettingsError(f"{where}, column {column!r}: {why}") from None
    return _encode_example(example, tokenizer, max_tokens, instruct, where)


def _encode_example(
    example: Example,
    tokenizer: PreTrainedTokenizerBase,
    max_tokens: int,
    instruct: bool,
    where: str,
) -> dict[str, Any]:
    """Tokenize a prompt and its answers."""
    prompt = listing_options(example) if instruct else example.prompt
    stop = [tokenizer.eos_token_id] if instruct else []
    first = first_tokens(tokenizer)
    asked = _ids(tokenizer, prompt)
    answers = [
        ids_of_parts(tokenizer, [prompt, example.joint + text])[1] for text in example.answers
    ]
    if not asked or not all(answers):
        raise SettingsError(f"{where}: one of its texts has no token of task.model")
    answers = [answer + stop for answer in answers]
    room = _room(max_tokens - len(first), max(map(len, answers)), max_tokens, where)
    return {
        "prompt": first + asked[-room:],
        "answers": answers,
        "scored": [[True] * len(answer) for answer in answers],
        "label": example.label,
        "open": not example.has_options,
        "reply": 0,
        "cut": len(asked) > room,
    }


def _encode_conversation(
    talk: Conversation,
    tokenizer: PreTrainedTokenizerBase,
    max_tokens: int,
    where: str,
    template: str,
) -> dict[str, Any]:
    """Tokenize a conversation: all that precedes the assistant's first turn is the prompt, the rest
    is the answer. One that is too long ends with the last turn that has room.
    """
    parts = chat.parts_of(tokenizer, talk, template or chat.PLAIN_TEMPLATE)
    texts = ids_of_parts(tokenizer, [part.text for part in parts])
    if not all(texts):
        raise SettingsError(f"{where}: one of its turns has no token of task.model")
    asked, *said = texts if template else [first_tokens(tokenizer) + texts[0], *texts[1:]]
    room = _room(max_tokens, len(said[0]), max_tokens, where)
    kept = 1
    while kept + 2 <= len(said) and len(asked) + sum(map(len, said[: kept + 2])) <= max_tokens:
        kept += 2
    return {
        "prompt": asked[-room:],
        "answers": [[token for ids in said[:kept] for token in ids]],
        "scored": [
            [part.trained for part, ids in zip(parts[1:], said[:kept], strict=False) for _ in ids]
        ],
        "label": 0,
        "open": True,
        "reply": sum(map(len, said[: kept - 1])),
        "cut": talk.skipped or kept < len(said) or len(asked) > room,
    }


def _room(tokens: int, longest: int, max_tokens: int, where: str) -> int:
    """Return how many tokens of a prompt fit beside an answer.

    Raises
    ------
    SettingsError
        None does.
    """
    if tokens - longest < 1:
        raise SettingsError(
            f"{where}: its longest answer has {longest} tokens, which leaves no room for a prompt "
            f"in data.max-tokens (now {max_tokens}); raise it"
        )
    return tokens - longest


def template_of(tokenizer: PreTrainedTokenizerBase, settings: Settings) -> str:
    """Return the chat template that conversations are written with; empty is our plain one.

    Raises
    ------
    SettingsError
        The tokenizer has several, and none of them is the default.
    """
    own = getattr(tokenizer, "chat_template", None)
    if not settings.data.chat_template or not own:
        return ""
    if isinstance(own, dict) and "default" not in own:
        raise SettingsError(
            f"task.model has the chat templates {', '.join(sorted(own))} and no default one; "
            "data.chat-template=false writes conversations plainly"
        )
    return str(own["default"] if isinstance(own, dict) else own)


def ids_of_parts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of each part of a text, none of which spans a boundary.

    They are the ids of the whole text where the ids of what precedes each boundary begin it; where
    a token would span a boundary, each part is tokenized by itself.
    """
    together = _ids(tokenizer, "".join(texts))
    ends = [0]
    for number in range(1, len(texts)):
        before = _ids(tokenizer, "".join(texts[:number]))
        if together[: len(before)] != before:
            return [_ids(tokenizer, text) for text in texts]
        ends.append(len(before))
    return [together[i:j] for i, j in zip(ends, [*ends[1:], len(together)], strict=True)]


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def first_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
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
    lengths = samples["attention_mask"].sum(1) + samples["labels_mask"].sum(2).amax(1)
    # By length, so that a batch of them has little padding; training shuffles anyway.
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
        else samples[name][torch.arange(len(chosen)), chosen][:, None]
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
