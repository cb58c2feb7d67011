"""The rows of each client: sources, labels and partition put together.

Where ``data.path`` (and what goes with it) names several sources, client k holds a share of the
k-th, in turn, and those who share one partition it among themselves.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from potara_flwr.core.errors import SettingsError
from potara_flwr.core.lazy import lazy
from potara_flwr.data.account import SourceRows
from potara_flwr.data.labels import (
    UNION,
    check_countable,
    classes_of,
    encode,
    label_values,
    read_classes,
    shortened,
    unite,
    warn_of_twins,
    write_classes,
)
from potara_flwr.data.partition import partition
from potara_flwr.data.sources import (
    check_columns,
    describe,
    listed,
    load_table,
    shared_rows,
)
from potara_flwr.data.splits import Splits, load_splits
from potara_flwr.settings.groups import DataSettings
from potara_flwr.settings.schema import Settings

if TYPE_CHECKING:
    import datasets
else:
    datasets = lazy("datasets")


OF_A_SOURCE = (
    "path", "name", "train_split", "test_split", "image_column", "text_column", "label_column",
    "prompt_column", "answer_column", "options_column",
)  # fmt: skip
"""The data settings that may name a value for each source."""


@dataclass(frozen=True)
class Source:
    """One data set, and the columns that the settings name in it."""

    settings: DataSettings
    """Those of the source alone."""
    contents: tuple[tuple[str, str], ...]
    """Setting → column of what is classified: an image, or one or two texts."""

    @property
    def where(self) -> str:
        """The data set in words, for error messages."""
        return describe(self.settings.path, self.settings.name)

    def beside(self, file: str | None) -> str | None:
        """Return the path of a file that a table names: relative ones are so to the table's folder,
        or to the folder that is the data set.
        """
        place = Path(self.settings.path).expanduser()
        if not file or "://" in file or not place.exists():
            return file
        return str((place if place.is_dir() else place.parent).absolute() / file)


@dataclass(frozen=True)
class Table:
    """All rows of a source; those of the training split first."""

    rows: datasets.Dataset
    """The columns of the contents."""
    labels: np.ndarray
    """Class numbers, shape (n,): places in ``classes``."""
    classes: tuple[str, ...]
    """By name: those that ``data.classes`` names, or the source's own."""
    keys: np.ndarray
    """What the rows are partitioned by, shape (n,)."""
    tested: np.ndarray | None
    """True where the data itself keeps a row for testing, shape (n,)."""
    found: int
    """Rows of the source, in all its splits."""


@dataclass(frozen=True)
class ClientRows:
    """One client's rows, in an order that the seed decides."""

    source: Source
    positions: Tensor
    """Of the client's rows in the source, shape (n,)."""
    rows: datasets.Dataset
    labels: Tensor
    """Class numbers, shape (n,): places in ``classes``."""
    classes: tuple[str, ...]
    tested: Tensor | None
    shared: SourceRows
    """Of the source."""


def num_sources(data: DataSettings) -> int:
    """Return the number of data sources that ``data.path`` names."""
    return len(listed(data.path))


def own_source(data: DataSettings, client: int) -> tuple[DataSettings, int, int]:
    """Return the settings of the one source whose rows a client holds a share of, which of its
    holders the client is, from 0, and how many they are.

    Raises
    ------
    SettingsError
        A setting names several values, but not one for each source; or there are more sources than
        clients.
    """
    sources = num_sources(data)
    if sources > data.num_clients:
        raise SettingsError(
            f"data.path names {sources} data sources, but there are {data.num_clients} "
            "clients; raise data.num-clients"
        )
    number = client % sources
    chosen = {}
    for key in OF_A_SOURCE:
        values = listed(getattr(data, key))
        if len(values) not in (1, sources):
            raise SettingsError(
                f"data.{key.replace('_', '-')} names {len(values)} values for "
                f"{sources} data sources; name one for each, or one for all"
            )
        chosen[key] = values[number if len(values) > 1 else 0]
    holders = len(range(number, data.num_clients, sources))
    return data.model_copy(update=chosen), client // sources, holders


def source_of(data: DataSettings, client: int, content: str) -> Source:
    """Return the source whose rows a client holds a share of.

    Parameters
    ----------
    data : DataSettings
        Of one source or of several.
    content : str
        ``image`` or ``text``: which column setting names what is classified.

    Raises
    ------
    SettingsError
        As :func:`own_source`; or the columns of what is classified are not one or two.
    """
    own, _, _ = own_source(data, client)
    setting = f"data.{content}-column"
    columns = [column.strip() for column in getattr(own, f"{content}_column").split("+")]
    if len(columns) > 2 or len(set(columns)) < len(columns) or "" in columns[1:]:
        raise SettingsError(
            f"{setting} is {'+'.join(columns)!r}; name one column, or two different ones"
        )
    return Source(own, tuple((setting, column) for column in columns))


def content_rows(source: Source) -> datasets.Dataset:
    """Return what is to be classified of all rows of a source, in their order, labelled or not.

    Raises
    ------
    SettingsError
        The source cannot be read, or lacks a column.
    """
    data = source.settings
    table = load_table(data.path, data.name, data.train_split)
    for setting, column in source.contents:
        check_columns(table, {setting: column}, describe(data.path, data.name, data.train_split))
    return table.select_columns([column for _, column in source.contents])


@functools.lru_cache(maxsize=8)
def shared_classes(settings: Settings, content: str) -> tuple[str, ...]:
    """Return the classes, by name, of the head that all clients start from.

    Raises
    ------
    SettingsError
        The head is shared, but the data sources have different classes; names both lists.
    """
    data = settings.data
    if classes := read_classes(data.classes):
        return classes
    sources = [source_of(data, number, content) for number in range(num_sources(data))]
    if settings.task.head == "local":
        sources = sources[:1]
    lists = {source.where: load_source(source).classes for source in sources}
    union = unite(lists.values())
    if data.classes.strip() == UNION:
        return union if any(_by_name(one) != one for one in lists.values()) else _by_name(union)
    first, *others = lists.items()
    for where, classes in others:
        if classes != first[1]:
            raise SettingsError(
                "task.head is shared, which needs the same classes in every data source, but "
                f"{first[0]} has {shortened(first[1])} and {where} has {shortened(classes)}; name "
                f"them all (data.classes={write_classes(union)!r}), take all that any source has "
                f"(data.classes={UNION}), or choose task.head=local"
            )
    return first[1]


def _by_name(names: tuple[str, ...]) -> tuple[str, ...]:
    """Sort classes: whole numbers by their value, before words."""
    order = {name: (0, int(name), "") if name.isdigit() else (1, 0, name) for name in names}
    return tuple(sorted(names, key=order.__getitem__))


def client_rows(settings: Settings, client: int, content: str) -> ClientRows:
    """Return the rows that a client holds.

    Raises
    ------
    SettingsError
        The source cannot be read, a column is missing, a label is unknown, or there are too few
        rows; names source and column.
    """
    data = settings.data
    source = source_of(data, client, content)
    table = load_source(source)
    _, member, members = own_source(data, client)
    positions = _partition(source, settings.seed, members)[member]
    at = positions.numpy()
    labels, classes = table.labels[at], table.classes
    if settings.task.head == "shared":
        classes = shared_classes(settings, content)
        labels = np.array([classes.index(name) for name in table.classes])[labels]
    return ClientRows(
        source=source,
        positions=positions,
        rows=table.rows.select(at),
        labels=torch.from_numpy(labels),
        classes=classes,
        tested=None if table.tested is None else torch.from_numpy(table.tested[at]),
        shared=shared_rows(
            client % num_sources(data),
            table.found,
            len(table.labels),
            _held(source, settings.seed, members),
        ),
    )


@functools.lru_cache(maxsize=16)
def load_source(source: Source) -> Table:
    """Load a source with its labels as class numbers.

    Raises
    ------
    SettingsError
        It cannot be read, lacks a column, or has a label that cannot be used.
    """
    data = source.settings
    if data.partition == "natural" and not data.partition_column:
        raise SettingsError("data.partition is natural, which needs data.partition-column")
    splits = load_splits(data)
    for setting, column in (*source.contents, ("data.label-column", data.label_column)):
        splits.check({setting: column})
    labels, classes = _labels(splits, data.label_column, data.classes)
    rows = splits.rows([column for _, column in source.contents])
    warn_of_twins(classes, splits.wheres[0])
    keys = labels if splits.keys is None else splits.keys
    return Table(rows, labels, classes, keys, splits.tested, splits.found)


def _labels(splits: Splits, column: str, named: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the class numbers of all rows, and the classes: the ``named`` ones, or those of the
    training samples.
    """
    parts, words, tested = splits.tables, splits.wheres, splits.tested
    values = [label_values(part, column, where) for part, where in zip(parts, words, strict=True)]
    if classes := read_classes(named):
        codes = [
            encode(part, classes, column, where) for part, where in zip(values, words, strict=True)
        ]
        return np.concatenate(codes), classes
    for part, where in zip(values, words, strict=True):
        check_countable(part, column, where)
    known = values[0]
    if len(parts) == 1 and tested is not None:
        known = [value for value, test in zip(known, tested, strict=True) if not test]
        if not known:
            raise SettingsError(f"data.split-column: {words[0]} has no training samples")
    classes = classes_of(parts[0].features[column], known)
    if len(set(known)) < 2:
        raise SettingsError(
            f"data.label-column: {words[0]}, column {column!r}: all training samples have the "
            f"label {str(known[0])!r}; two or more are needed, or the classes named in data.classes"
        )
    codes = [
        encode(part, classes, column, where, set(map(str, known)))
        for part, where in zip(values, words, strict=True)
    ]
    return np.concatenate(codes), classes


@functools.lru_cache(maxsize=16)
def _partition(source: Source, seed: int, members: int) -> list[Tensor]:
    return partition(source.settings, seed, load_source(source).keys, members)


@functools.lru_cache(maxsize=16)
def _held(source: Source, seed: int, members: int) -> int:
    """Return how many rows all holders together have."""
    return sum(map(len, _partition(source, seed, members)))
