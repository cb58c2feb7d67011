"""One row as tokens: a prompt and its answers, or a conversation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from potara_flwr.core.errors import SettingsError
from potara_flwr.data.conversations import Conversation
from potara_flwr.data.examples import Example, Row, RowError, listing_options
from potara_flwr.data.questions import Reader
from potara_flwr.settings.schema import Settings
from potara_flwr.tasks import chat

ENCODED = ("prompt", "answers", "scored", "label", "open", "reply", "cut")
"""Of a row: token ids of the prompt and of each answer, which of these are scored, the position of
the answer that is trained, whether there are no options, the token of the answer with which the
assistant's last turn begins, and whether ``data.max-tokens`` or a conversation without an end has
cost it some text."""


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


def encode_asked(
    reader: Reader,
    row: Row,
    tokenizer: PreTrainedTokenizerBase,
    max_tokens: int,
    instruct: bool,
    where: str,
    template: str = "",
) -> dict[str, Any]:
    """Tokenize one row whose answer is asked: what :data:`ENCODED` names, and the texts of its
    ``options``. Where there are none, the one answer is what ends one.

    Parameters
    ----------
    reader : Reader
        One that reads rows without answers.
    instruct, where, template
        As in :func:`encode_row`.

    Raises
    ------
    SettingsError
        A row asks nothing, or its longest option leaves no room for a prompt.
    """
    try:
        example = reader.read(row)
        if isinstance(example, Conversation):
            parts = chat.parts_of(tokenizer, example, template or chat.PLAIN_TEMPLATE)
            *texts, end = ids_of_parts(tokenizer, [part.text for part in parts])
            asked = [token for ids in texts for token in ids]
            first = [] if template else first_tokens(tokenizer)
        elif example.has_options:
            encoded = _encode_example(example, tokenizer, max_tokens, instruct, where)
            return encoded | {"options": example.answers}
        else:
            asked, end = _ids(tokenizer, example.prompt), [tokenizer.eos_token_id]
            first = first_tokens(tokenizer)
    except RowError as error:
        column, why = error.args
        raise SettingsError(f"{where}, column {column!r}: {why}") from None
    if not asked:
        raise SettingsError(f"{where}: its prompt has no token of task.model")
    room = _room(max_tokens - len(first), 1, max_tokens, where)
    return {
        "prompt": first + asked[-room:],
        "answers": [end[-1:]],
        "scored": [[True]],
        "label": 0,
        "open": True,
        "reply": 0,
        "cut": len(asked) > room,
        "options": (),
    }


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
