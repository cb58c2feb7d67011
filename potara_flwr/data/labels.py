"""Labels as class numbers, whatever the data has: classes by name, words, numbers, or yes and no.

A class is known by its text: the number 1 and the word "1" are one class, and its number is its
place in the run's list of classes, whatever a client's own rows hold.
"""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from potara_flwr.core.errors import SettingsError
from potara_flwr.core.lazy import lazy

if TYPE_CHECKING:
    import datasets
else:
    datasets = lazy("datasets")

logger = logging.getLogger(__name__)

FEW = 0.1
"""Share of words up to which labels are taken for numbers with mistakes."""
UNION = "union"
"""``data.classes`` for all classes that any source has, by name."""


def label_values(table: datasets.Dataset, column: str, where: str) -> list[str | int | float]:
    """Return the labels of a table: names, words or numbers; ``True`` and ``False`` as words.

    Raises
    ------
    SettingsError
        A label is missing, or is neither a word nor a number; names source and row.
    """
    feature = table.features[column]
    values: list[Any] = table[column][:]
    named = isinstance(feature, datasets.ClassLabel)
    for row, value in enumerate(values):
        if value is None or value == "" or value != value or (named and value == -1):
            raise SettingsError(f"{_place(where, column, row)} has no label")
        if not isinstance(value, str | int | float):
            raise SettingsError(
                f"{_place(where, column, row)} is labelled {value!r}; labels must be words or "
                "numbers"
            )
    if named:
        return [feature.int2str(value) for value in values]
    return [_plain(value) for value in values]


def _plain(value: str | float) -> str | int | float:
    """Return a label as it is best written: 2 for 2.0, and a truth value as a word."""
    if isinstance(value, bool):
        return str(value)
    return int(value) if isinstance(value, float) and value == int(value) else value


def check_countable(values: Sequence[str | int | float], column: str, where: str) -> None:
    """Check that labels may be classes that nobody has named.

    Raises
    ------
    SettingsError
        A label is a number, but not a whole one from 0: it may be a measure. Or it is a word where
        nearly all others are numbers.
    """
    words = [row for row, value in enumerate(values) if not _is_number(value)]
    if 0 < len(words) <= FEW * len(values):
        raise SettingsError(
            f"{_place(where, column, words[0])} has the label {str(values[words[0]])!r}, a word, "
            f"but {len(values) - len(words)} others are numbers; mend it, or name the classes in "
            "data.classes"
        )
    for row, value in enumerate(values):
        if not isinstance(value, str) and not (isinstance(value, int) and value >= 0):
            raise SettingsError(
                f"{_place(where, column, row)} is labelled {value!r}; labels must be words or "
                "whole numbers from 0; others have to be named in data.classes"
            )


def _is_number(value: str | float) -> bool:
    return not isinstance(value, str) or value.strip().lstrip("-").replace(".", "", 1).isdigit()


def classes_of(feature: Any, values: Sequence[str | int | float]) -> tuple[str, ...]:
    """Return the classes in the order of their numbers.

    Classes that the data set names (``ClassLabel``) keep their order; words and whole numbers are
    sorted.

    Parameters
    ----------
    feature : Feature
        The type of the column.
    values : sequence
        The labels of the training samples, from :func:`label_values`.
    """
    if isinstance(feature, datasets.ClassLabel):
        return tuple(feature.names)
    return tuple(map(str, sorted(set(values), key=_order)))


def _order(value: Any) -> tuple[bool, Any]:
    """Sort numbers before words."""
    return isinstance(value, str), value


def read_classes(text: str) -> tuple[str, ...]:
    """Return the classes that ``data.classes`` names, in the order of their numbers; none where it
    is empty or :data:`UNION`.

    It is a line of a csv file: a name with a comma in it stands in double quotes. One whole number
    is how many there are, named 0, 1, ….

    Raises
    ------
    SettingsError
        There are fewer than two, or one is named twice.
    """
    if text.strip() == UNION:
        return ()
    line = next(csv.reader([text], skipinitialspace=True), [])
    names = [name.strip() for name in line if name.strip()]
    if len(names) == 1 and names[0].isdigit():
        names = list(map(str, range(int(names[0]))))
    if names and (len(names) < 2 or len(set(names)) < len(names)):
        raise SettingsError(
            f"data.classes is {text!r}; name two or more classes, each once, or how many there are"
        )
    return tuple(names)


def write_classes(classes: Iterable[str]) -> str:
    """Return classes as ``data.classes`` names them."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(classes)
    return line.getvalue()


def unite(lists: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """Return all classes that any list has, by name: those of the first list in its order, then
    what the others add.
    """
    return tuple(dict.fromkeys(name for one in lists for name in one))


def warn_of_twins(classes: Sequence[str], where: str) -> None:
    """Warn of classes that differ only in case or in blanks around them."""
    alike: dict[str, list[str]] = {}
    for name in classes:
        alike.setdefault(name.strip().casefold(), []).append(name)
    for names in alike.values():
        if len(names) > 1:
            logger.warning(
                "%s: the classes %s differ only in case or blanks, and are taken for different "
                "ones; if they are one, mend the data",
                where, ", ".join(map(repr, names)),
            )  # fmt: skip


def encode(
    values: Sequence[str | int | float],
    classes: Sequence[str],
    column: str,
    where: str,
    known: Collection[str] | None = None,
) -> np.ndarray:
    """Return the class number of each label, int64, shape (n,).

    Parameters
    ----------
    known : collection, optional
        The classes of the training samples, where no others may occur; by default all may.

    Raises
    ------
    SettingsError
        A label is none of the classes, or not known.
    """
    numbers = {
        name: number for number, name in enumerate(classes) if known is None or name in known
    }
    unknown = "is none of the run's classes" if known is None else "no training sample has"
    for row, value in enumerate(values):
        if str(value) not in numbers:
            raise SettingsError(
                f"{_place(where, column, row)} has the label {str(value)!r}, which {unknown}: "
                f"{shortened(numbers)}"
            )
    return np.array([numbers[str(value)] for value in values], dtype=np.int64)


def shortened(names: Iterable[str], most: int = 10) -> str:
    """Return names in a line, the first ones where they are many."""
    every = list(names)
    return ", ".join(every[:most]) + (", …" if len(every) > most else "")


def _place(where: str, column: str, row: int) -> str:
    return f"data.label-column: {where}, column {column!r}: row {row}"
