"""Instruction data as people keep it: which columns hold what, and a row as a conversation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from potara_flwr.data.examples import Row, RowError

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "tool": "tool",
    "function": "tool",
    "ipython": "tool",
    "observation": "tool",
    "function_response": "tool",
}
"""What data sets call who speaks, and what chat templates do."""
ANSWER = "Answer"
"""Stands where an answer is asked, so that all else is read as where there is one."""
SPELLINGS = (("role", "content"), ("from", "value"))
"""Of a message: who speaks and what is said, as chats and as ShareGPT have it."""


@dataclass(frozen=True)
class Message:
    """What one of the speakers says."""

    role: str
    """One of the values of :data:`ROLES`."""
    content: str
    trained: bool = False
    """Whether the model learns to say it."""


@dataclass(frozen=True)
class Conversation:
    """Messages in turn, the last of which is trained."""

    messages: tuple[Message, ...]
    column: str
    """Column that it is from, for error messages."""
    skipped: bool = False
    """Whether messages were left out: a beginning that answers nobody, an end that nobody answers.
    """


@dataclass(frozen=True)
class Format:
    """A way to keep instructions that is recognised by its columns."""

    words: str
    columns: tuple[str, ...]
    """That it must have."""
    optional: tuple[str, ...]
    answer: str
    """Column of the answers; of a chat, that of all messages."""
    read: Callable[[Row], Conversation | tuple[str, str]]
    """From a row to a conversation, or to the texts of a prompt and its completion as they are."""

    def asking(self, row: Row) -> Row:
        """Return a row with :data:`ANSWER` for its answer, whether it has one or not."""
        said = [{"role": "assistant", "content": ANSWER}]
        told = row.get(self.answer)
        if self.columns == (self.answer,):
            if not told or not all(isinstance(message, Mapping) for message in told):
                return row  # read() says what is wrong with it
            keys = next((keys for keys in SPELLINGS if keys[0] in told[0]), SPELLINGS[0])
            said = [{keys[0]: "assistant", keys[1]: ANSWER}]
            by = ROLES.get(str(told[-1].get(keys[0])).strip().lower())
            return {**row, self.answer: [*(told[:-1] if by == "assistant" else told), *said]}
        in_turns = isinstance(row.get(self.columns[0]), list)
        return {**row, self.answer: said if in_turns else ANSWER}


def conversation(value: Any, column: str, *, trained: bool = True) -> list[Message]:
    """Return a list of messages as a data set keeps it.

    Parameters
    ----------
    value : list of dict
        ``role`` and ``content``, or ``from`` and ``value``; an assistant's message of ``weight`` 0
        is not trained.
    trained : bool
        Whether the assistant's messages are trained.

    Raises
    ------
    RowError
        It is no such list; says which message is at fault.
    """
    if not isinstance(value, list) or not value:
        raise RowError(column, "it is no list of messages")
    messages = []
    for number, message in enumerate(value):
        where = f"message {number}"
        spelling = next(
            (keys for keys in SPELLINGS if isinstance(message, Mapping) and keys[0] in message),
            None,
        )
        if spelling is None:
            raise RowError(column, f"{where} has neither role and content nor from and value")
        said_by, content = message[spelling[0]], _text(message.get(spelling[1]))
        role = ROLES.get(str(said_by).strip().lower())
        if role is None:
            raise RowError(
                column, f"{where} is said by {said_by!r}, none of {', '.join(sorted(ROLES))}"
            )
        if content is None or (role == "assistant" and not content.strip()):
            raise RowError(column, f"{where}, of the {role}, has no text")
        learned = trained and role == "assistant" and message.get("weight") != 0
        messages.append(Message(role, content, learned))
    return messages


def whole(messages: Sequence[Message], column: str) -> Conversation:
    """Return messages as a conversation that begins before the first answer to somebody and ends
    with the last that is trained.

    Raises
    ------
    RowError
        No message of the assistant is trained.
    """
    roles = [message.role for message in messages]
    asked = roles.index("user") if "user" in roles else len(roles)
    kept = [
        message
        for position, message in enumerate(messages)
        if position >= asked or message.role == "system"
    ]
    learned = [position for position, message in enumerate(kept) if message.trained]
    if not learned:
        raise RowError(column, "no message of the assistant follows one of the user")
    kept = kept[: learned[-1] + 1]
    return Conversation(tuple(kept), column, skipped=len(kept) < len(messages))


def _chat(column: str) -> Callable[[Row], Conversation]:
    return lambda row: whole(conversation(row[column], column), column)


def _alpaca(*, asked: str, context: str, answer: str) -> Callable[[Row], Conversation]:
    """Return a reader of single questions, to which a text may belong."""

    def read(row: Row) -> Conversation:
        texts = {
            column: _text(row.get(column)) or "" for column in ("system", asked, context, answer)
        }
        for column in (asked, answer):
            if not texts[column].strip():
                raise RowError(column, "it is empty, or no text")
        question = "\n\n".join(text for text in (texts[asked], texts[context]) if text.strip())
        system = [Message("system", texts["system"])] if texts["system"].strip() else []
        return Conversation(
            (*system, Message("user", question), Message("assistant", texts[answer], trained=True)),
            answer,
        )

    return read


def _completion(row: Row) -> Conversation | tuple[str, str]:
    """Return texts as they are, or what is said in two lists of messages."""
    prompt, completion = row["prompt"], row["completion"]
    if isinstance(prompt, list) or isinstance(completion, list):
        return whole(
            [
                *conversation(prompt, "prompt", trained=False),
                *conversation(completion, "completion"),
            ],
            "completion",
        )
    for column in ("prompt", "completion"):
        if not isinstance(row[column], str) or not row[column].strip():
            raise RowError(column, "it is empty, or no text")
    return prompt, completion


FORMATS: dict[str, Format] = {
    "messages": Format("chats", ("messages",), (), "messages", _chat("messages")),
    "conversations": Format(
        "ShareGPT conversations", ("conversations",), (), "conversations", _chat("conversations")
    ),
    "completion": Format(
        "prompts with completions", ("prompt", "completion"), (), "completion", _completion
    ),
    "alpaca": Format(
        "Alpaca instructions",
        ("instruction", "output"),
        ("input", "system"),
        "output",
        _alpaca(asked="instruction", context="input", answer="output"),
    ),
    "dolly": Format(
        "Dolly instructions",
        ("instruction", "response"),
        ("context", "system"),
        "response",
        _alpaca(asked="instruction", context="context", answer="response"),
    ),
}
"""By the name that a cache knows them by; of two that fit, the first is taken."""


def recognised(columns: Sequence[str]) -> str:
    """Return the name of the format that a table's columns are of; empty where of none."""
    return next((name for name, form in FORMATS.items() if set(form.columns) <= set(columns)), "")


def recognised_unanswered(columns: Sequence[str]) -> str:
    """Return the name of the format that a table's columns would be of, had it answers; of two that
    fit, that of which it has more columns. Empty where of none.
    """
    there = set(columns)
    fitting = [
        name
        for name, form in FORMATS.items()
        if set(form.columns) - ({form.answer} if len(form.columns) > 1 else set()) <= there
    ]
    every = {name: {*FORMATS[name].columns, *FORMATS[name].optional} for name in fitting}
    return max(fitting, key=lambda name: len(every[name] & there), default="")


def _text(content: Any) -> str | None:
    """Return what a message says: a text, or the texts of its parts; None where it is neither."""
    if isinstance(content, list):
        parts = [
            part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None
            for part in content
        ]
        return None if None in parts or not parts else "\n".join(map(str, parts))
    return content if isinstance(content, str) else None
