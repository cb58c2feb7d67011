"""The updates of a round, kept on disk where they are many: an average needs one array of one
client at a time.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from potara_flwr.core.arrays import Arrays
from potara_flwr.core.storage import writing

IN_MEMORY = 8 * 2**20
"""Bytes of updates above which they are kept on disk."""


class _Place(NamedTuple):
    """Where an array lies in the file, and what it is."""

    offset: int
    dtype: np.dtype
    shape: tuple[int, ...]


class StoredUpdate(Mapping[str, NDArray]):
    """One client's update, whose arrays are read each time that they are asked for."""

    def __init__(self, file: tempfile.SpooledTemporaryFile[bytes], arrays: Arrays) -> None:
        self._file = file
        self._places = {name: self._put(array) for name, array in arrays.items()}

    def _put(self, array: NDArray) -> _Place:
        offset = self._file.seek(0, 2)
        self._file.write(array.tobytes())
        return _Place(offset, array.dtype, array.shape)

    def __getitem__(self, name: str) -> NDArray:
        """Read an array."""
        offset, dtype, shape = self._places[name]
        self._file.seek(offset)
        data = self._file.read(math.prod(shape) * dtype.itemsize)
        return np.frombuffer(data, dtype).reshape(shape)

    def __iter__(self) -> Iterator[str]:
        """Yield the names of the arrays."""
        return iter(self._places)

    def __len__(self) -> int:
        """Return the number of arrays."""
        return len(self._places)


class RoundUpdates(Mapping[int, StoredUpdate]):
    """Client → its update, sorted by client, whatever the order in which they are put in.

    Once they exceed :data:`IN_MEMORY` they lie in a file without a name (in ``TMPDIR``), which is
    gone when the ``with`` block ends.
    """

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 (see __exit__)
        self._updates: dict[int, StoredUpdate] = {}
        self._norms: dict[int, float] = {}

    @property
    def norms(self) -> dict[int, float]:
        """Client → the norm of its change to what it was sent."""
        return {client: self._norms[client] for client in self}

    def add(self, client: int, update: Arrays, norm: float) -> None:
        """Put in the update of a client, and the norm of its change.

        Raises
        ------
        StorageError
            The disk is full.
        """
        with writing(Path(tempfile.gettempdir())):
            self._updates[client] = StoredUpdate(self._file, update)
            self._file.flush()
        self._norms[client] = norm

    def drop(self, client: int) -> None:
        """Leave out the update of a client."""
        del self._updates[client], self._norms[client]

    def __getitem__(self, client: int) -> StoredUpdate:
        """Return the update of a client."""
        return self._updates[client]

    def __iter__(self) -> Iterator[int]:
        """Yield the clients, sorted."""
        return iter(sorted(self._updates))

    def __len__(self) -> int:
        """Return the number of updates."""
        return len(self._updates)

    def __enter__(self) -> Self:
        """Return the updates themselves."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Forget the updates."""
        self._file.close()
