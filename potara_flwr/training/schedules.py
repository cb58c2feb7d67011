"""How the learning rate goes along the optimizer steps of the rounds, or of local training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Kind = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True)
class Course:
    """The learning rate along a phase of ``total`` steps, of which ``done`` lie behind."""

    kind: Kind = "constant"
    warmup: int = 0
    """Steps over which the rate rises to its full height."""
    done: int = 0
    total: int = 0

    def factor(self, step: int) -> float:
        """Return the share of the learning rate at a step of this training, from 0.

        It rises by equal parts over the first ``warmup`` steps of the phase, and then falls to 0
        at its end in a line or in half a cosine (arXiv 1608.03983, eq. 5, without restarts).
        """
        at = self.done + step
        if at < self.warmup:
            return (at + 1) / (self.warmup + 1)
        share = (at - self.warmup) / max(self.total - self.warmup, 1)
        if self.kind == "linear":
            return max(1 - share, 0.0)
        if self.kind == "cosine":
            return (1 + math.cos(math.pi * min(share, 1.0))) / 2
        return 1.0


CONSTANT = Course()
