"""Where data comes from: a hub id, a data file, or a folder of data files or images.

All of them go through ``datasets.load_dataset``, so a local folder may be laid out in any way that
the hub knows: a README with a ``configs`` block, files named by split, or images in a
folder per class.
"""

from __future__ import annotations

import csv
import functools
import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from potara_flwr.core.errors import SettingsError
from potara_flwr.core.lazy import lazy
from potara_flwr.data.account import SourceRows
from potara_flwr.data.files import literal
from potara_flwr.data.folders import image_folder, load_folder
from potara_flwr.data.tables import AS_WRITTEN, features_of

if TYPE_CHECKING:
    import datasets
else:
    datasets = lazy("datasets")

logger = logging.getLogger(__name__)

FORMATS = {".parquet": "parquet", ".csv": "csv", ".json": "json", ".jsonl": "json"}


@functools.lru_cache(maxsize=64)
def load_table(
    path: str, name: str, split: str, setting: str = "data.path", revision: str = ""
) -> datasets.Dataset:
    """Load one split of a data set.

    Parameters
    ----------
    path : str
        A hub id, a folder, or a data file that ends in one of :data:`FORMATS`, in any case. The
        path of a file or folder is literal.
    name : str
        Configuration of the data set (``load_dataset``'s ``name``); empty is its only one.
    split : str
        Split, also a slice of one (``train[:1000]``). A data file has the one split ``train``.
    setting : str
        Setting that ``path`` is from, for the error message.
    revision : str
        Branch, tag or commit on the hub; empty is the newest.

    Raises
    ------
    SettingsError
        Nothing is there, or it cannot be read, or it has no such configuration or split.
    """
    if not path:
        raise SettingsError(f"{setting} is empty: name a hub id, a folder or a data file")
    place = Path(path).expanduser()
    where = describe(path, name, split)
    suffix = place.suffix.lower()
    if place.is_file() and suffix not in FORMATS:
        raise SettingsError(f"{setting} is {path!r}; a data file must end in {', '.join(FORMATS)}")
    if suffix in FORMATS and not place.is_file():
        raise SettingsError(f"{setting}: there is no file {place}")
    datasets.disable_progress_bars()
    try:
        if place.is_file():
            return load_file(literal(place), FORMATS[suffix], split)
        if place.is_dir():
            words = f"{setting}: {where}"
            if (images := image_folder(place, words)) is not None:
                return images.load(split, words)
            return load_folder(place, name, split, words)
        return datasets.load_dataset(path, name or None, split=split, revision=revision or None)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetGenerationError) as error:
        raise SettingsError(f"{setting}: {where} cannot be read: {_reason(error)}") from None


def load_file(file: Path, form: str, split: str) -> datasets.Dataset:
    """Load a data file, checked row by row.

    Raises
    ------
    ValueError
        It cannot be used; names the row.
    """
    options = {}
    if form in ("csv", "json"):
        options["features"] = features_of([file], form)
    if form == "csv":
        options |= AS_WRITTEN
    return datasets.load_dataset(form, data_files=str(file), split=split, **options)


def listed(text: str) -> list[str]:
    """Return the values of a setting that may name several, separated by commas: a line of a csv
    file, so that a value with a comma in it stands in double quotes. What is there by that very
    name, a file or folder, is one.
    """
    if Path(text).expanduser().exists():
        return [text]
    return [value.strip() for value in next(csv.reader([text], skipinitialspace=True), [""])]


def rows_found(parts: Sequence[datasets.Dataset], splits: Sequence[str], where: str) -> int:
    """Return how many rows a source has in all its splits; those that are not used are warned of.

    Parameters
    ----------
    parts : sequence of Dataset
        The rows that are used.
    splits : sequence of str
        Which splits or slices of such they are, one for each part.
    where : str
        The source in words.

    Raises
    ------
    SettingsError
        Some rows are in two parts.
    """
    sizes = {name: split.num_examples for name, split in (parts[0].info.splits or {}).items()}
    found: int = sum(sizes.values())
    used: dict[str, np.ndarray] = {name: np.zeros(size, int) for name, size in sizes.items()}
    for split in splits:
        for part in datasets.ReadInstruction.from_spec(split).to_absolute(sizes):
            used[part.splitname][part.from_ : part.to] += 1
    common = sum(int((times > 1).sum()) for times in used.values())
    if common:
        raise SettingsError(
            f"data.test-split: {where}: {' and '.join(splits)} have {common} rows in common; name "
            "splits that are apart"
        )
    unused = found - sum(int(times.sum()) for times in used.values())
    if unused:
        logger.warning(
            "%s: %d of its %d rows are in splits that are not used (it has %s; used is %s)",
            where, unused, found,
            ", ".join(f"{name}: {size}" for name, size in sizes.items()), " and ".join(splits),
        )  # fmt: skip
    return found


def shared_rows(number: int, found: int, used: int, held: int) -> SourceRows:
    """Return the account of a source: of ``found`` rows ``used`` are in the splits that are used,
    and ``held`` by clients, counted once for each that holds them.
    """
    return SourceRows(
        number=number, found=found, unused_splits=found - used, no_client=max(0, used - held)
    )


def joined(values: Sequence[str]) -> str:
    """Return values as :func:`listed` takes them."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(values)
    return line.getvalue()


def describe(path: str, name: str = "", split: str = "") -> str:
    """Name a source in an error message, e.g. ``rows.csv`` or ``cais/mmlu (all), split test``."""
    place = Path(path).expanduser()
    words = place.name if place.exists() else path
    words += f" ({name})" if name else ""
    return f"{words}, split {split}" if split and not place.is_file() else words


def check_columns(table: datasets.Dataset, columns: Mapping[str, str], where: str) -> None:
    """Check that a table has the columns that settings name.

    Parameters
    ----------
    columns : mapping
        Setting → column; an empty column is not asked for.
    where : str
        What the table is, from :func:`describe`.

    Raises
    ------
    SettingsError
        A column is missing; names the setting, the source and the columns that it has.
    """
    for setting, column in columns.items():
        if column and column not in table.column_names:
            raise SettingsError(
                f"{setting} is {column!r}, but {where} has the columns "
                f"{', '.join(table.column_names)}"
            )


def for_testing(table: datasets.Dataset, column: str, where: str) -> np.ndarray:
    """Return which rows a column keeps for testing, shape (n,): it says ``train`` or ``test``.

    Raises
    ------
    SettingsError
        It says something else; names the row.
    """
    words = table[column][:]
    for row, word in enumerate(words):
        if word not in ("train", "test"):
            raise SettingsError(
                f"data.split-column: {where}, column {column!r}: row {row} is {word!r}, neither "
                "train nor test; leave such rows out of the data"
            )
    return np.array([word == "test" for word in words])


def keys_of(parts: Sequence[datasets.Dataset], column: str, wheres: Sequence[str]) -> np.ndarray:
    """Return what tables are partitioned by, the values of ``data.partition-column`` as whole
    numbers, shape (n,).

    Raises
    ------
    SettingsError
        A row has none; names it.
    """
    values = []
    for part, where in zip(parts, wheres, strict=True):
        values += part[column][:]
        if None in part[column][:]:
            raise SettingsError(
                f"data.partition-column: {where}, column {column!r}: row "
                f"{part[column][:].index(None)} is empty"
            )
    return np.unique(np.array(values), return_inverse=True)[1]


def _reason(error: BaseException) -> str:
    """Return the first two lines of an error as one: `datasets` puts the remedy on the second."""
    if "corresponds to no data" in str(error):
        return "it has no rows"
    if isinstance(error, datasets.exceptions.DatasetGenerationError):
        error = error.__cause__ or error
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) or type(error).__name__
