"""Rows prepared once and kept in the cache of ``datasets``, on disk.

In a deployment every message to a client runs in a fresh process, which finds the tokens or pixels
of the message before.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from potara_flwr.core.lazy import lazy

if TYPE_CHECKING:
    import datasets
else:
    datasets = lazy("datasets")


Columns = dict[str, list[Any]]


def prepare_rows(
    rows: datasets.Dataset, prepare: Callable[[Columns], Columns], *decisive: object
) -> datasets.Dataset:
    """Map batches of rows, or read what the same call has left in the cache.

    Parameters
    ----------
    prepare : function
        From the columns of some rows to those of the prepared rows, as many.
    decisive : objects
        All that ``prepare`` depends on besides its own source. The cache is keyed by them: hashing
        the function itself would hash a tokenizer, which changes when it is used.
    """
    key = datasets.fingerprint.Hasher.hash(
        [rows._fingerprint, inspect.getsource(prepare), decisive]
    )
    return rows.map(
        prepare, batched=True, remove_columns=rows.column_names, new_fingerprint=key, desc=None
    )
