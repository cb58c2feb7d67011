"""Wall-clock seconds by phase."""

from __future__ import annotations

import time
from collections.abc import Mapping


class Stopwatch:
    """Wall-clock seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, phase: str) -> None:
        """Add the time since the last lap to a phase."""
        now = time.perf_counter()
        self.add({phase: now - self._last})
        self._last = now

    def add(self, seconds: Mapping[str, float]) -> None:
        """Add seconds to phases."""
        for phase, more in seconds.items():
            self.seconds[phase] = self.seconds.get(phase, 0.0) + more
