"""Means with their spread, and paired differences with their noise."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """A mean over seeds and the standard deviation over them."""

    mean: float
    deviation: float | None
    """Sample standard deviation; None with one seed."""

    def words(self, scale: float = 1.0, decimals: int = 1) -> str:
        """Return both, e.g. ``86.3 ± 1.1``."""
        mean = f"{scale * self.mean:.{decimals}f}"
        return mean + _after(self.deviation, scale, decimals)


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences."""

    mean: float
    error: float | None
    """Two standard errors of the mean; None with one pair."""
    pairs: int

    @property
    def is_sure(self) -> bool:
        """Whether the mean is further from 0 than its error."""
        return self.error is not None and abs(self.mean) > self.error

    def words(self, scale: float = 1.0, decimals: int = 1) -> str:
        """Return mean and error, e.g. ``+2.8 ± 1.1``."""
        mean = f"{scale * self.mean:+.{decimals}f}"
        return mean + _after(self.error, scale, decimals)


def spread(values: Sequence[float]) -> Spread:
    """Return mean and sample standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Spread(statistics.fmean(values), deviation)


def difference(values: Sequence[float]) -> Difference | None:
    """Return the mean of differences and two standard errors of it, 2·s/√n; None without any."""
    if not values:
        return None
    error = None
    if len(values) > 1:
        error = 2 * statistics.stdev(values) / math.sqrt(len(values))
    return Difference(statistics.fmean(values), error, len(values))


def _after(deviation: float | None, scale: float, decimals: int) -> str:
    return "" if deviation is None else f" ± {scale * deviation:.{decimals}f}"
