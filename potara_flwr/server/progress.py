"""One line of progress: written by the ServerApp's log, read back by whoever draws it.

A ServerApp has no terminal: what it prints reaches the user through Flower's log stream. So
progress is a line that people can read as it is, and that a program can parse to draw a bar.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rich.filesize import decimal

_LINE = re.compile(
    r"progress: (?P<phase>\w+) (?P<done>\d+)/(?P<total>\d+) · loss (?P<loss>\S+) · "
    r"accuracy (?P<accuracy>\S+) · (?P<size>.+?) · (?P<minutes>\d+):(?P<seconds>\d\d) left"
)


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    ``loss`` and ``accuracy`` are means over the clients, as shown, or None where nobody has
    evaluated; ``size`` is the traffic so far; ``seconds_left`` an estimate.
    """

    phase: str
    done: int
    total: int
    loss: float | None
    accuracy: float | None
    size: str
    seconds_left: int

    @classmethod
    def of(
        cls,
        phase: str,
        done: int,
        total: int,
        loss: float | None,
        accuracy: float | None,
        num_bytes: int,
        seconds_left: float,
    ) -> Progress:
        """Round the numbers to what is shown, so that a line read back gives the same progress."""
        return cls(
            phase,
            done,
            total,
            None if loss is None else round(loss, 3),
            None if accuracy is None else round(accuracy, 3),
            decimal(num_bytes),
            round(seconds_left),
        )

    @classmethod
    def parse(cls, text: str) -> Progress | None:
        """Find progress in a line of a log."""
        match = _LINE.search(text)
        if match is None:
            return None
        return cls(
            match["phase"],
            int(match["done"]),
            int(match["total"]),
            None if match["loss"] == "–" else float(match["loss"]),
            None if match["accuracy"] == "–" else float(match["accuracy"]),
            match["size"],
            60 * int(match["minutes"]) + int(match["seconds"]),
        )

    def __str__(self) -> str:
        minutes, seconds = divmod(self.seconds_left, 60)
        return (
            f"progress: {self.phase} {self.done}/{self.total} · {self.scores} · {self.size} · "
            f"{minutes}:{seconds:02d} left"
        )

    @property
    def scores(self) -> str:
        """Loss and accuracy in words."""
        loss = "–" if self.loss is None else f"{self.loss:.3f}"
        accuracy = "–" if self.accuracy is None else f"{self.accuracy:.3f}"
        return f"loss {loss} · accuracy {accuracy}"
