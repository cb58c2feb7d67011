"""A conversation as the text that a model reads, with the parts of it that the model learns to say.

Turns are written by the tokenizer's own chat template. Which part of the text is a turn of the
assistant's is found from what the template writes of the conversation before it, so that templates
need not mark them (transformers' ``{% generation %}``, "Chat templates", "Train on completions
only"; where one does, both say the same).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from potara_flwr.data.conversations import Conversation, Message
from potara_flwr.data.examples import RowError

PLAIN_TEMPLATE = (
    "{% for message in messages %}### {{ message['role'] | capitalize }}:\n"
    "{{ message['content'] }}{{ eos_token if message['role'] == 'assistant' else '' }}\n\n"
    "{% endfor %}{% if add_generation_prompt %}### Assistant:\n{% endif %}"
)
"""For a tokenizer without a template of its own, and where ``data.chat-template`` is false."""


@dataclass(frozen=True)
class Part:
    """A part of a conversation's text."""

    text: str
    trained: bool


def parts_of(tokenizer: PreTrainedTokenizerBase, talk: Conversation, template: str) -> list[Part]:
    """Return the text of a conversation in parts: what is read, what is said, in turn.

    Parameters
    ----------
    template : str
        Chat template (Jinja) that writes it.

    Raises
    ------
    RowError
        The template does not take the conversation, or changes what it wrote of earlier turns.
    """
    full = _written(tokenizer, talk, template, len(talk.messages), asks=False)
    parts, position = [], 0
    for number, message in enumerate(talk.messages):
        if not message.trained:
            continue
        start, end = _span(tokenizer, talk, template, full, number)
        parts += [Part(full[position:start], trained=False), Part(full[start:end], trained=True)]
        position = end
    return parts


def stop_tokens(tokenizer: PreTrainedTokenizerBase, template: str) -> list[int]:
    """Return the tokens at which an answer ends: the end of the text, and the token with which the
    template ends a turn of the assistant's, where it is another (as ``<|im_end|>``).

    Parameters
    ----------
    template : str
        Chat template of the tokenizer; empty where there is none.
    """
    stop = [int(tokenizer.eos_token_id)]
    talk = Conversation((Message("user", "Hello"), Message("assistant", "Hi", trained=True)), "")
    try:
        said = parts_of(tokenizer, talk, template or PLAIN_TEMPLATE)[-1].text
    except RowError:  # it takes no such conversation, and ours are no chats
        return stop
    last = tokenizer(said, add_special_tokens=False)["input_ids"][-1]
    return stop + [last] * (last in tokenizer.added_tokens_decoder and last not in stop)


def _span(
    tokenizer: PreTrainedTokenizerBase, talk: Conversation, template: str, full: str, number: int
) -> tuple[int, int]:
    """Return where the text of a message begins and ends, its end of turn with it."""
    content = talk.messages[number].content.strip()
    asked = _written(tokenizer, talk, template, number, asks=True)
    told = _written(tokenizer, talk, template, number, asks=False)
    before = asked if full.startswith(asked) else told
    at = full.find(content, len(before))
    if at < 0 or not full.startswith(before):
        raise RowError(
            talk.column,
            f"the chat template of task.model writes message {number} otherwise where others "
            "follow it; data.chat-template=false writes conversations plainly",
        )
    start = len(before) if before is asked else at
    alone = _written(tokenizer, talk, template, number + 1, asks=False)
    tail = alone[alone.rfind(content) + len(content) :]
    if any(tail.rstrip().endswith(token) for token in _marks(tokenizer)):
        tail = tail.rstrip()
    end = at + len(content)
    same = (ours == theirs for ours, theirs in zip(tail, full[end:], strict=False))
    return start, end + len(list(takewhile(bool, same)))


def _marks(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the texts of the tokens that stand for something else than text."""
    added = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    return [*added, *tokenizer.all_special_tokens]


def _written(
    tokenizer: PreTrainedTokenizerBase,
    talk: Conversation,
    template: str,
    number: int,
    *,
    asks: bool,
) -> str:
    """Return the text of the first ``number`` messages, with the beginning of an answer or not."""
    messages: Sequence[Message] = talk.messages[:number]
    try:
        text = tokenizer.apply_chat_template(
            [{"role": message.role, "content": message.content} for message in messages],
            chat_template=template,
            tokenize=False,
            add_generation_prompt=asks,
        )
    except (TemplateError, ValueError, KeyError, TypeError) as error:
        raise RowError(
            talk.column,
            f"the chat template of task.model does not take it ({error}); "
            "data.chat-template=false writes conversations plainly",
        ) from None
    return str(text)
