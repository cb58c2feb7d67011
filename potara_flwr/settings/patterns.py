"""Numbers of some modules' own in one text: ``q_proj=16,v_proj=4``."""

from __future__ import annotations

import re

RANK = r"0*[1-9]\d*"
ALPHA = r"(?=.*[1-9])\d+(\.\d+)?"


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
