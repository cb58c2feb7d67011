"""Samples as a partitioner sees them: positions and keys, cut without a table of rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np


class KeyTable(datasets.Dataset):
    """What flwr-datasets' partitioners use of a ``Dataset``, on two arrays.

    They read the keys as a whole, and then cut one small data set for every client: a ``Dataset``
    yields a column value by value, 30 µs each, and takes a millisecond to cut, most of it to copy
    and hash what describes it.

    Parameters
    ----------
    index : ndarray
        Positions of the samples, shape (n,).
    key : ndarray
        What they are partitioned by, shape (n,).
    """

    def __init__(self, index: np.ndarray, key: np.ndarray) -> None:
        # Nothing of a Dataset is wanted but its type, which a partitioner checks.
        self.index, self.key = index, key

    @property
    def num_rows(self) -> int:
        """The number of samples."""
        return len(self.index)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, column: Any) -> np.ndarray:
        return self.index if column == "index" else self.key

    def unique(self, column: str) -> list[int]:
        """Return the keys, each once."""
        values: list[int] = np.unique(self[column]).tolist()
        return values

    def select(self, indices: Sequence[int] | np.ndarray, **_: Any) -> KeyTable:
        """Return some of the samples, in this order."""
        at = np.asarray(indices, dtype=int)
        return KeyTable(self.index[at], self.key[at])

    def shard(self, num_shards: int, index: int, contiguous: bool = True, **_: Any) -> KeyTable:
        """Return one of as many consecutive parts as equal as can be, the larger ones first."""
        size, larger = divmod(len(self), num_shards)
        start = size * index + min(index, larger)
        end = start + size + (index < larger)
        return KeyTable(self.index[start:end], self.key[start:end])
