"""The one reader of a source of the user's own: its splits, which rows are for testing, and what
they are partitioned by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from potara_flwr.core.errors import SettingsError
from potara_flwr.core.lazy import lazy
from potara_flwr.data.sources import (
    check_columns,
    describe,
    for_testing,
    keys_of,
    load_table,
    rows_found,
)
from potara_flwr.settings.groups import DataSettings

if TYPE_CHECKING:
    import datasets
else:
    datasets = lazy("datasets")


@dataclass(frozen=True)
class Splits:
    """The rows of a source that a run uses; those of the training split first."""

    tables: list[datasets.Dataset]
    """One for each split that is used."""
    wheres: list[str]
    """Each of them in words, for error messages."""
    tested: np.ndarray | None
    """True where the data itself keeps a row for testing, shape (n,)."""
    keys: np.ndarray | None
    """What ``data.partition-column`` holds, as whole numbers, shape (n,); None without one."""
    found: int
    """Rows of the source, in all its splits."""

    def check(self, columns: Mapping[str, str]) -> None:
        """Check that every split has the columns that settings name: setting → column.

        Raises
        ------
        SettingsError
            One lacks a column; names the setting, the split and the columns that it has.
        """
        for table, where in zip(self.tables, self.wheres, strict=True):
            check_columns(table, columns, where)

    def rows(self, columns: Sequence[str]) -> datasets.Dataset:
        """Return some columns of all rows."""
        return datasets.concatenate_datasets(
            [table.select_columns(list(columns)) for table in self.tables]
        )


def load_splits(data: DataSettings) -> Splits:
    """Load the splits of one source.

    Parameters
    ----------
    data : DataSettings
        Those of the source alone.

    Raises
    ------
    SettingsError
        It cannot be read, lacks a column, says twice which rows are for testing, or has a row in
        two splits.
    """
    if data.split_column and data.test_split:
        raise SettingsError("data.split-column and data.test-split are both given; empty one")
    splits = [split for split in (data.train_split, data.test_split) if split]
    tables = [load_table(data.path, data.name, split) for split in splits]
    wheres = [describe(data.path, data.name, split) for split in splits]
    for table, where in zip(tables, wheres, strict=True):
        check_columns(
            table,
            {
                "data.split-column": data.split_column,
                "data.partition-column": data.partition_column,
            },
            where,
        )
    tested = None
    if data.test_split:
        tested = np.arange(sum(map(len, tables))) >= len(tables[0])
    elif data.split_column:
        tested = for_testing(tables[0], data.split_column, wheres[0])
    keys = keys_of(tables, data.partition_column, wheres) if data.partition_column else None
    found = rows_found(tables, splits, describe(data.path, data.name))
    return Splits(tables, wheres, tested, keys, found)
