"""Whose questions are whose: a share of a benchmark data set, or of the user's own data."""

from __future__ import annotations

import difflib
import functools
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from potara_flwr.core.errors import SettingsError
from potara_flwr.core.lazy import lazy
from potara_flwr.core.seeds import derive_seed
from potara_flwr.data.account import SourceRows
from potara_flwr.data.benchmarks import BENCHMARKS
from potara_flwr.data.clients import num_sources, own_source
from potara_flwr.data.conversations import (
    ANSWER,
    FORMATS,
    Conversation,
    recognised,
    recognised_unanswered,
)
from potara_flwr.data.examples import Example, Row, RowError, choice, open_question
from potara_flwr.data.partition import partition
from potara_flwr.data.sources import (
    check_columns,
    describe,
    load_table,
    rows_found,
    shared_rows,
)
from potara_flwr.data.splits import Splits, load_splits
from potara_flwr.settings.groups import DataSettings
from potara_flwr.settings.schema import Settings

if TYPE_CHECKING:
    import datasets
else:
    datasets = lazy("datasets")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reader:
    """How a row becomes a question; plain texts, so that a cache can be keyed by it."""

    benchmark: str = ""
    """Name in ``BENCHMARKS``, or empty: the user's own data."""
    format: str = ""
    """Name in ``FORMATS``, or empty: the columns below."""
    prompt: str = ""
    answer: str = ""
    options: str = ""
    asks: bool = False
    """Whether rows need no answer, and none that they have is read."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that it reads, those that need not be there last."""
        if self.benchmark:
            return BENCHMARKS[self.benchmark].columns
        if self.format:
            return FORMATS[self.format].columns + FORMATS[self.format].optional
        columns = (self.prompt, "" if self.asks else self.answer, self.options)
        return tuple(column for column in columns if column)

    def read(self, row: Row) -> Example | Conversation:
        """Return the question, or the conversation, of a row.

        Raises
        ------
        RowError
            The row makes none.
        """
        if self.benchmark:
            return BENCHMARKS[self.benchmark].example(row)
        if self.format:
            form = FORMATS[self.format]
            read = form.read(form.asking(row) if self.asks else row)
            if isinstance(read, Conversation):
                return read
            prompt, completion = read
            return Example(prompt, (completion,), has_options=False, joint="")
        prompt, answer = row[self.prompt], 0 if self.asks else row[self.answer]
        for column, value in ((self.prompt, prompt), (self.answer, answer)):
            if value is None:
                raise RowError(column, "it is empty")
        if not isinstance(prompt, str) or not prompt.strip():
            raise RowError(self.prompt, "the prompt is empty, or no text")
        if self.options:
            options = row[self.options]
            if not _is_texts(options):
                raise RowError(self.options, "the options are no list of texts")
            if not isinstance(answer, str | int) or isinstance(answer, bool):
                raise RowError(self.answer, f"the answer {answer!r} is neither a text nor a number")
            return choice(prompt, options, answer, column=self.answer)
        if self.asks:
            return open_question(prompt, [ANSWER], column=self.prompt)
        if isinstance(answer, dict):
            raise RowError(self.answer, "the answer is an object, which is neither text nor number")
        answers = answer if isinstance(answer, list) else [str(answer)]
        if not _is_texts(answers):
            raise RowError(self.answer, "the answers are no list of texts")
        return open_question(prompt, answers, column=self.answer)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


@dataclass(frozen=True)
class Questions:
    """The rows of one client."""

    rows: datasets.Dataset
    positions: Tensor
    """Of the rows in their file or split, shape (n,)."""
    tested: Tensor | None
    """True for the rows that the data itself keeps for testing, shape (n,)."""
    reader: Reader
    source: str
    """The data set in words, for error messages."""
    shared: SourceRows
    """Of the data set."""


def client_questions(settings: Settings, client: int) -> Questions:
    """Return the rows that client ``client`` holds.

    Client k holds the k-th of ``data.datasets``, in turn; clients of one data set share its
    training and its test rows evenly, at random. Without ``data.datasets``, the data at
    ``data.path``, or at the client's one of several, is partitioned as for any other task.

    Raises
    ------
    SettingsError
        A data set is unknown, cannot be read, or lacks a column.
    """
    data = settings.data
    names = [name.strip() for name in data.datasets.split(",") if name.strip()]
    if names and data.path:
        raise SettingsError("data.datasets and data.path are both given; empty one of them")
    if not names:
        return _own(settings, client)
    for name in names:
        if name not in BENCHMARKS:
            known = difflib.get_close_matches(name, BENCHMARKS, n=1, cutoff=0.5) or BENCHMARKS
            raise SettingsError(
                f"data.datasets names {name!r}, which is unknown; did you mean {', '.join(known)}?"
            )
    position = client % len(names)
    holders = len(range(position, data.num_clients, len(names)))
    benchmark = BENCHMARKS[names[position]]
    tables = [load_benchmark(data, names[position], split) for split in ("train", "test")]
    shares = [_share(len(table), settings.seed, client // len(names), holders) for table in tables]
    return Questions(
        datasets.concatenate_datasets(
            [table.select(share) for table, share in zip(tables, shares, strict=True)]
        ),
        torch.from_numpy(np.concatenate(shares)),
        torch.arange(sum(map(len, shares))) >= len(shares[0]),
        Reader(benchmark=names[position]),
        f"data set {names[position]}",
        shared_rows(
            position,
            rows_found(tables, (benchmark.train, benchmark.test), f"data set {names[position]}"),
            sum(map(len, tables)),
            sum(map(len, tables)),
        ),
    )


def load_benchmark(data: DataSettings, name: str, split: str) -> datasets.Dataset:
    """Load the ``train`` or the ``test`` rows of a benchmark data set: the columns it reads.

    Raises
    ------
    SettingsError
        It cannot be read, or lacks a column.
    """
    benchmark = BENCHMARKS[name]
    path, setting, revision = benchmark.path, "data.datasets", benchmark.revision
    if data.root:
        folder = Path(data.root).expanduser() / benchmark.path
        if not folder.is_dir():
            raise SettingsError(f"data.root: there is no folder {folder} for data set {name}")
        path, setting, revision = str(folder), "data.root", ""
    part = benchmark.train if split == "train" else benchmark.test
    table = load_table(path, benchmark.name, part, setting, revision)
    where = describe(benchmark.path, benchmark.name, part)
    for column in benchmark.columns:
        check_columns(table, {f"data set {name}: the column it reads": column}, where)
    return table.select_columns(list(benchmark.columns))


def _own(settings: Settings, client: int) -> Questions:
    """Return a client's share of the user's own data."""
    data, member, members = own_source(settings.data, client)
    rows, splits, reader = _own_rows(data)
    tested = splits.tested
    at = _own_partition(data, settings.seed, members)[member]
    return Questions(
        rows.select(at.numpy()),
        at,
        None if tested is None else torch.from_numpy(tested[at.numpy()]),
        reader,
        describe(data.path, data.name),
        shared_rows(
            client % num_sources(settings.data),
            splits.found,
            len(rows),
            _held(data, settings.seed, members),
        ),
    )


@functools.lru_cache(maxsize=4)
def _own_rows(data: DataSettings) -> tuple[datasets.Dataset, Splits, Reader]:
    """Load the user's own data: the columns that are read, the splits, and what reads a row."""
    splits = load_splits(data)
    there = splits.tables[0].column_names
    reader = _reader(data, there)
    if not reader.format:
        splits.check(
            {
                "data.prompt-column": data.prompt_column,
                "data.answer-column": data.answer_column,
                "data.options-column": data.options_column,
            }
        )
    columns = [column for column in dict.fromkeys(reader.columns) if column in there]
    for column in columns:
        splits.check({f"{splits.wheres[0]} has a column that all splits need, which": column})
    return splits.rows(columns), splits, reader


def _reader(data: DataSettings, columns: list[str]) -> Reader:
    """Return what reads rows of these columns: the prompts and answers that settings name, or,
    where they are not there and nobody named them, a format that the columns are of.
    """
    named = Reader(
        prompt=data.prompt_column, answer=data.answer_column, options=data.options_column
    )
    if set(named.columns) <= set(columns) or not may_be_instructions(data):
        return named
    form = recognised(columns)
    if not form:
        return named
    logger.warning(
        "%s: read as %s (columns %s)",
        describe(data.path, data.name), FORMATS[form].words, ", ".join(FORMATS[form].columns),
    )  # fmt: skip
    return Reader(format=form)


def may_be_instructions(data: DataSettings) -> bool:
    """Say whether a format of instructions, such as chats, is looked for: nobody named columns."""
    names = ("prompt_column", "answer_column", "options_column", "datasets")
    default = DataSettings()
    return all(getattr(data, name) == getattr(default, name) for name in names)


@dataclass(frozen=True)
class Unanswered:
    """Rows whose answers are asked."""

    rows: datasets.Dataset
    reader: Reader
    source: str
    """The data set in words, for error messages."""


def unanswered_questions(settings: Settings) -> Unanswered:
    """Return all rows at ``data.path``, in their order, which need no answers. They are of the
    columns that settings name, of a format, or of the one benchmark in ``data.datasets``, whose
    rows are as they are published.

    Raises
    ------
    SettingsError
        The data cannot be read, or lacks a column.
    """
    data = settings.data
    table = load_table(data.path, data.name, data.train_split)
    there, where = table.column_names, describe(data.path, data.name, data.train_split)
    named = Reader(prompt=data.prompt_column, options=data.options_column, asks=True)
    if data.datasets:
        reader = Reader(benchmark=data.datasets)
        for column in reader.columns:
            check_columns(table, {f"data set {data.datasets}: the column it reads": column}, where)
    else:
        answered = _reader(data, there)
        form = answered.format or recognised_unanswered(there)
        in_turns = isinstance(table.features.get(data.prompt_column), datasets.List)
        plain = set(named.columns) <= set(there) and not (in_turns or answered.format)
        if plain or not form or not may_be_instructions(data):
            reader = named
        else:
            reader = Reader(format=form, asks=True)
        if not reader.format:
            check_columns(
                table,
                {
                    "data.prompt-column": data.prompt_column,
                    "data.options-column": data.options_column,
                },
                where,
            )
    columns = [column for column in dict.fromkeys(reader.columns) if column in there]
    return Unanswered(table.select_columns(columns), reader, where)


@functools.lru_cache(maxsize=4)
def _own_partition(data: DataSettings, seed: int, members: int) -> list[Tensor]:
    """Return the positions of the rows of each of ``members`` clients; questions have no labels to
    skew.
    """
    rows, splits, _ = _own_rows(data)
    if splits.keys is not None:
        keys = splits.keys
    elif data.partition in ("iid", "size-skewed", "whole"):
        keys = np.zeros(len(rows), dtype=np.int64)
    else:
        raise SettingsError(
            f"data.partition is {data.partition}, which needs data.partition-column where samples "
            "have no labels; or choose iid, size-skewed or whole"
        )
    return partition(data, seed, keys, members)


def _share(size: int, seed: int, index: int, of: int) -> np.ndarray:
    """Return the positions of one of ``of`` shares of ``size`` rows, at random."""
    if size < of:
        raise SettingsError(f"{of} clients share {size} rows; lower data.num-clients")
    order = np.random.default_rng(derive_seed(seed, "partition")).permutation(size)
    return order[index::of]


@functools.lru_cache(maxsize=4)
def _held(data: DataSettings, seed: int, members: int) -> int:
    """Return how many rows all holders together have."""
    return sum(map(len, _own_partition(data, seed, members)))
