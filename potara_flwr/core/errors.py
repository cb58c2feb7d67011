"""The errors a user can mend, each one clear line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PotaraError(Exception):
    """Something a user can mend: the message says what is wrong and how to mend it, in one line."""


class SettingsError(PotaraError):
    """A setting is unknown, ill-typed, out of range, or does not fit the data or the model."""


class NodeError(PotaraError):
    """One node cannot take part by a fault of its own (names the node).

    Parameters
    ----------
    message : str
        What is wrong and how to mend it.
    client : int, optional
        The client that the node is, where that is known.
    """

    def __init__(self, message: str, client: int | None = None) -> None:
        super().__init__(message)
        self.client = client


class TrainingError(PotaraError):
    """Training cannot go on (names the client and the step)."""


class RunError(PotaraError):
    """A federated run cannot go on (names the clients and the reasons)."""


class EstimationError(PotaraError):
    """A quantity behind the mixing weight is not finite (names the client and the adapter)."""


class ReplyError(PotaraError):
    """A client's reply cannot be used (says what is wrong with it)."""


class StorageError(PotaraError):
    """A file cannot be written or is not what it should be (names the file)."""


MOST_CHARACTERS = 2000
"""Of a line that somebody else wrote, such as a client."""


def one_line(text: str) -> str:
    """Return a text that somebody else wrote as one line that is safe to print: no line breaks, no
    control characters, no more than ``MOST_CHARACTERS``.
    """
    printable = "".join(c if c.isprintable() else " " for c in text[: 4 * MOST_CHARACTERS])
    line = " ".join(printable.split())
    return line if len(line) <= MOST_CHARACTERS else f"{line[: MOST_CHARACTERS - 1]}…"


def nearest(name: str, known: Iterable[str], all_are: str = "known are") -> str:
    """Return the end of an error line: the known name nearest to ``name``, or all of them."""
    names = list(known)
    match = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean {match[0]}?" if match else f"; {all_are} {', '.join(names)}"
