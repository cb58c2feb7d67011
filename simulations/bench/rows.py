"""A line of the table of benchmarks."""

from __future__ import annotations

import statistics
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
