"""Lines of the tables of benchmarks."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Row:
    """One line of the table: a ratio in each repeat, the aim it is held against, and where a miss
    would come from.
    """

    table: ClassVar[str] = "ratio"

    what: str
    ratios: list[float]
    aim: float | None
    why: str = ""

    def __str__(self) -> str:
        low, middle, high = min(self.ratios), statistics.median(self.ratios), max(self.ratios)
        aim = "–" if self.aim is None else f"≤ {self.aim:g}"
        met = "–" if self.aim is None else "yes" if middle <= self.aim else f"no: {self.why}"
        return f"| {self.what} | {middle:.3f} | {low:.3f} – {high:.3f} | {aim} | {met} |"


@dataclass(frozen=True)
class Seen:
    """One line of the table of what a GPU has shown: a number in each repeat, and what it is held
    against, or words in the place of numbers.
    """

    table: ClassVar[str] = "on a GPU"

    part: str
    what: str
    values: Sequence[float]
    aim: float | None
    where: str
    """The GPU, and torch's version."""
    at_least: bool = False
    """Whether the aim is the least that the number should be, not the most."""
    words: str = ""

    def __str__(self) -> str:
        name = f"{self.part}: {self.what}"
        if self.words:
            return f"| {name} | {self.words} | – | – | – | {self.where} |"
        low, middle, high = min(self.values), statistics.median(self.values), max(self.values)
        aim = met = "–"
        if self.aim is not None:
            aim = f"{'≥' if self.at_least else '≤'} {self.aim:g}"
            met = "yes" if (middle >= self.aim if self.at_least else middle <= self.aim) else "no"
        seen = f"{middle:.3g} | {low:.3g} – {high:.3g}"
        return f"| {name} | {seen} | {aim} | {met} | {self.where} |"
