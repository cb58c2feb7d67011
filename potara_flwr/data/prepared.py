"""Rows prepared once and kept in the cache of ``datasets``, on disk.

In a deployment every message to a client runs in a fresh process, which finds the tokens or pixels
of the message before.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potara_flwr.core.lazy import lazy

if TYPE_CHECKING:
    import datasets
else:
    datasets = lazy("datasets")


Columns = dict[str, list[Any]]

POSITION = "position of the row"
"""Column that says where a row is in its file or split, for error messages."""


def prepare_rows(
    rows: datasets.Dataset,
    prepare: Callable[[Columns], Columns],
    *decisive: object,
    positions: Sequence[int] | None = None,
) -> datasets.Dataset:
    """Map batches of rows, or read what the same call has left in the cache.

    Parameters
    ----------
    prepare : function
        From the columns of some rows to those of the prepared rows, as many.
    positions : sequence of int, optional
        Given to ``prepare`` as the column :data:`POSITION`. A column of the rows themselves would
        be a copy of all of them on the disk.
    decisive : objects
        All that ``prepare`` depends on besides its own source. The cache is keyed by them: hashing
        the function itself would hash a tokenizer, which changes when it is used.
    """
    key = datasets.fingerprint.Hasher.hash(
        [rows._fingerprint, inspect.getsource(prepare), decisive]
    )

    def with_positions(columns: Columns, at: list[int]) -> Columns:
        if positions is not None:
            columns = {**columns, POSITION: [positions[row] for row in at]}
        return prepare(columns)

    return rows.map(
        with_positions, with_indices=True, batched=True, remove_columns=rows.column_names,
        new_fingerprint=key, cache_file_name=_place(rows, key), desc=None,
    )  # fmt: skip


def _place(rows: datasets.Dataset, key: str) -> str | None:
    """Return the file for prepared rows, one of 256 folders in the cache of their source: before it
    prepares anything ``datasets`` lists the folder, in which every client has files. None where
    nothing is cached.
    """
    if not rows.cache_files or not datasets.is_caching_enabled():
        return None
    cache = Path(rows.cache_files[0]["filename"]).parent
    return str(cache / "prepared" / key[:2] / f"cache-{key}.arrow")
