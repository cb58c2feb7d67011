"""Numbers in one text: those of some modules' own, ``q_proj=16,v_proj=4``, and a client's rank."""

from __future__ import annotations

import re

RANK = r"0*[1-9]\d*"
ALPHA = r"(?=.*[1-9])\d+(\.\d+)?"


def read_rank(text: str) -> int:
    """Return a rank.

    Raises
    ------
    ValueError
        It is not a whole number from 1.
    """
    if not re.fullmatch(RANK, text.strip()):
        raise ValueError(f"{text!r} is no rank")
    return int(text)


def read_pattern(text: str, numbers: str) -> dict[str, str]:
    """Return the numbers, of the form of a regular expression, by the modules' names, which are
    peft's: the end of a module's name, or a regular expression of it.

    Raises
    ------
    ValueError
        The text is of another form.
    """
    found = {}
    for part in text.split(",") if text else ():
        name, _, number = part.strip().rpartition("=")
        try:
            re.compile(name)
        except re.error:
            name = ""
        if not name or not re.fullmatch(numbers, number):
            raise ValueError(f"{part!r} is no name=number")
        found[name] = number
    return found
