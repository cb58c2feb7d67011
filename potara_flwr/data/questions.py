"""Whose questions are whose: a share of a benchmark data set, or of the user's own data."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

import datasets
import torch
from torch import Tensor

from potara_flwr.config import DataSettings, Settings
from potara_flwr.data.benchmarks import BENCHMARKS
from potara_flwr.data.examples import Example, Row, RowError, choice, open_question
from potara_flwr.data.sources import describe, load_table
from potara_flwr.errors import SettingsError
from potara_flwr.seeds import derive_seed


@dataclass(frozen=True)
class Reader:
    """How a row becomes a question; plain texts, so that a cache can be keyed by it."""

    benchmark: str
    """Name in ``BENCHMARKS``, or empty: the user's own data, with the columns below."""
    prompt: str = ""
    answer: str = ""
    options: str = ""

    def read(self, row: Row) -> Example:
        """Return the question of a row.

        Raises
        ------
        RowError
            The row makes no question.
        """
        if self.benchmark:
            return BENCHMARKS[self.benchmark].example(row)
        prompt, answer = row[self.prompt], row[self.answer]
        for column, value in ((self.prompt, prompt), (self.answer, answer)):
            if value is None:
                raise RowError(column, "it is empty")
        if self.options:
            return choice(prompt, row[self.options], answer, column=self.answer)
        answers = answer if isinstance(answer, list) else [str(answer)]
        return open_question(prompt, answers, column=self.answer)


@dataclass(frozen=True)
class Questions:
    """The rows of one client."""

    rows: datasets.Dataset
    tested: Tensor | None
    """True for the rows that the data itself keeps for testing, shape (n,)."""
    reader: Reader
    source: str
    """The data set in words, for error messages."""


def client_questions(settings: Settings, client: int) -> Questions:
    """Return the rows that client ``client`` holds.

    Client k holds the k-th of ``data.datasets``, in turn; clients of one data set share its
    training and its test rows independently and identically distributed. Without
    ``data.datasets``, all clients share the data at ``data.path`` so.

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
    index = client // len(names)
    train, test = (
        _share(load_benchmark(data, names[position], split), settings, index, holders)
        for split in ("train", "test")
    )
    tested = torch.arange(len(train) + len(test)) >= len(train)
    rows = datasets.concatenate_datasets([train, test])
    return Questions(rows, tested, Reader(names[position]), f"data set {names[position]}")


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
    _check(table, dict.fromkeys(benchmark.columns, f"data set {name}"), where)
    return table.select_columns(list(benchmark.columns))


def _own(settings: Settings, client: int) -> Questions:
    """Return a client's share of the user's own data."""
    data = settings.data
    reader = Reader("", data.prompt_column, data.answer_column, data.options_column)
    table = load_table(data.path, "", "train")
    where = describe(data.path)
    columns = {
        reader.prompt: "data.prompt-column",
        reader.answer: "data.answer-column",
        reader.options: "data.options-column",
        data.split_column: "data.split-column",
    }
    _check(table, {name: asks for name, asks in columns.items() if name}, where)
    rows = _share(table, settings, client, data.num_clients)
    tested = None
    if data.split_column:
        tested = torch.tensor([word == "test" for word in rows[data.split_column]])
    return Questions(rows, tested, reader, where)


def _share(table: datasets.Dataset, settings: Settings, index: int, of: int) -> datasets.Dataset:
    """Return one of ``of`` shares of the rows, in random order."""
    seed = derive_seed(settings.seed, "partition") % 2**32
    if len(table) < of:
        raise SettingsError(f"{of} clients share {len(table)} rows; lower data.num-clients")
    return table.shuffle(seed=seed).shard(num_shards=of, index=index, contiguous=False)


def _check(table: datasets.Dataset, columns: dict[str, str], where: str) -> None:
    for column, asks in columns.items():
        if column not in table.column_names:
            raise SettingsError(
                f"{asks} needs the column {column!r}, but {where} has the columns "
                f"{', '.join(table.column_names)}"
            )
