"""What is said of many clients: a few names instead of all, a distribution instead of each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MANY = 40
"""Of more clients than this, what people read shows distributions instead of each."""
FEW = 10
"""How many of many are named."""

QUANTILES = {
    "lowest": 0.0, "5 %": 0.05, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "95 %": 0.95,
    "highest": 1.0,
}  # fmt: skip
"""What a distribution is told by."""


def named(names: Sequence[str], between: str = ", ") -> str:
    """Return names in a line; of many the first few, and how many there are besides."""
    if len(names) <= MANY:
        return between.join(names)
    return f"{between.join(names[:FEW])} and {len(names) - FEW:,} more"


def quantiles(numbers: Sequence[float]) -> dict[str, float]:
    """Return the quantiles of one or more numbers, by the names of :data:`QUANTILES`."""
    found = np.quantile(np.asarray(numbers, dtype=float), list(QUANTILES.values()))
    return dict(zip(QUANTILES, found.tolist(), strict=True))
