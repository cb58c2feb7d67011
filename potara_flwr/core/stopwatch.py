"""Wall-clock seconds by phase."""

from __future__ import annotations

import time
from collections.abc import Mapping


class Stopwatch:
    """Wall-clock seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def running(self) -> float:
        """Return the time since the last lap."""
        return time.perf_counter() - self._last

    def lap(self, phase: str) -> float:
        """Add the time since the last lap to a phase, and return it."""
        seconds = self.running()
        self._last += seconds
        self.add({phase: seconds})
        return seconds

    def add(self, seconds: Mapping[str, float]) -> None:
        """Add seconds to phases."""
        for phase, more in seconds.items():
            self.seconds[phase] = self.seconds.get(phase, 0.0) + more
