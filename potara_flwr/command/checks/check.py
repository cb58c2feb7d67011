"""What a check has found, as one line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    state: State
    """``warn``: some runs will not go as expected; ``fail``: what was asked for will not work."""
    name: str
    found: str
    remedy: str = ""
    """What to do; empty where there is nothing to do."""

    def __str__(self) -> str:
        """Return the line."""
        remedy = f" → {self.remedy}" if self.remedy else ""
        return f"{self.state:<4}  {self.name}: {self.found}{remedy}"


def ok(name: str, found: str) -> Check:
    """Return that all is well."""
    return Check("ok", name, found)


def warn(name: str, found: str, remedy: str) -> Check:
    """Return what may go wrong, and what to do."""
    return Check("warn", name, found, remedy)


def fail(name: str, found: str, remedy: str) -> Check:
    """Return what will go wrong, and what to do."""
    return Check("fail", name, found, remedy)
