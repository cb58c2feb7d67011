"""One question as a language model is asked it: a prompt, and the options or the answers to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]
"""One row of a data set: column → value."""


class RowError(ValueError):
    """A row makes no question; the first argument is the column at fault, the second says why."""


@dataclass(frozen=True)
class Example:
    """A question with its answers."""

    prompt: str
    answers: tuple[str, ...]
    """The options to choose from; of a question without options, all answers that are right."""
    label: int = 0
    """Position of the answer that is trained: the right option, or the first right answer."""
    has_options: bool = True
    joint: str = " "
    """What stands between the prompt and an answer."""


def choice(
    prompt: str, options: Sequence[str], answer: str | int, *, keys: Sequence[Any] = (), column: str
) -> Example:
    """Return a question with options.

    Parameters
    ----------
    answer : str or int
        The right option by its position, by its key where there are keys, else by its text.
    keys : sequence
        What the data set calls each option, e.g. A, B, C.
    column : str
        Where the answer is from, for the error message.

    Raises
    ------
    RowError
        The prompt or an option is empty, there are fewer than two options, or the answer is none
        of them.
    """
    options = [option.strip() for option in options]
    known: Sequence[Any] = keys or (range(len(options)) if isinstance(answer, int) else options)
    if isinstance(answer, str):
        answer = answer.strip()
    if answer not in known:
        words = ", ".join(repr(key) for key in known)
        raise RowError(column, f"the answer {answer!r} is not among the options ({words})")
    if len(options) < 2 or not all(options):
        raise RowError(column, f"the options are {options}; there must be two or more, none empty")
    return Example(_asked(prompt, column), tuple(options), known.index(answer))


def open_question(prompt: str, answers: Sequence[str], *, column: str) -> Example:
    """Return a question without options.

    Parameters
    ----------
    answers : sequence of str
        Every answer that is right; the first one is trained.

    Raises
    ------
    RowError
        The prompt is empty, or there is no answer.
    """
    given = tuple(dict.fromkeys(answer.strip() for answer in answers))
    if not given or not all(given):
        raise RowError(column, "the answer is empty")
    return Example(_asked(prompt, column), given, has_options=False)


def listing_options(example: Example) -> str:
    """Return the prompt with its options written out before the last line, as an instruction."""
    if not example.has_options:
        return example.prompt
    question, newline, cue = example.prompt.rpartition("\n")
    listed = "".join(f"- {option}\n" for option in example.answers)
    return f"{question}{newline}Choose from:\n{listed}{cue}"


def _asked(prompt: str, column: str) -> str:
    """Return the prompt without white space around it, which belongs to the answer."""
    if not prompt.strip():
        raise RowError(column, "the prompt is empty")
    return prompt.strip()
