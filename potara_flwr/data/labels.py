"""Labels as class numbers, whatever the data has: classes by name, words, or whole numbers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from potara_flwr.core.errors import SettingsError
from potara_flwr.core.lazy import lazy

if TYPE_CHECKING:
    import datasets
else:
    datasets = lazy("datasets")


def label_values(table: datasets.Dataset, column: str, where: str) -> list[Any]:
    """Return the labels of a table: names, words, or whole numbers from 0.

    Raises
    ------
    SettingsError
        A label is missing, or is neither a word nor a whole number from 0; names source and row.
    """
    feature = table.features[column]
    values: list[Any] = table[column][:]
    named = isinstance(feature, datasets.ClassLabel)
    at = f"data.label-column: {where}, column {column!r}: row"
    for row, value in enumerate(values):
        if value is None or value == "" or value != value or (named and value == -1):
            raise SettingsError(f"{at} {row} has no label")
        if not isinstance(value, str) and not _is_whole(value):
            raise SettingsError(
                f"{at} {row} is labelled {value!r}; labels must be words or whole numbers from 0"
            )
    if named:
        return [feature.int2str(value) for value in values]
    return [value if isinstance(value, str) else int(value) for value in values]


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | float) and value >= 0 and value == int(value)


def classes_of(feature: Any, values: Sequence[str | int]) -> Sequence[str | int]:
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
        return list(feature.names)
    return sorted(set(values))


def named_classes(text: str) -> list[str | int]:
    """Return the classes that ``data.classes`` names, in the order of their numbers; none where it
    is empty.

    Raises
    ------
    SettingsError
        There are fewer than two, or one is named twice.
    """
    names: list[str | int] = [name.strip() for name in text.split(",") if name.strip()]
    if len(names) == 1 and str(names[0]).isdigit():
        names = list(range(int(names[0])))
    if names and (len(names) < 2 or len(set(names)) < len(names)):
        raise SettingsError(
            f"data.classes is {text!r}; name two or more classes, each once, or how many there are"
        )
    return names


def encode(
    values: Sequence[str | int],
    classes: Sequence[str | int],
    column: str,
    where: str,
    known: Collection[str | int] | None = None,
) -> np.ndarray:
    """Return the class number of each label, int64, shape (n,).

    Parameters
    ----------
    known : collection, optional
        The labels of the training samples, where no others may occur; by default all classes may.

    Raises
    ------
    SettingsError
        A label is none of the classes, or not known.
    """
    numbers = {
        name: number for number, name in enumerate(classes) if known is None or name in known
    }
    unknown = "data.classes does not name" if known is None else "no training sample has"
    for row, value in enumerate(values):
        if value not in numbers:
            words = ", ".join(str(name) for name in list(numbers)[:10])
            raise SettingsError(
                f"data.label-column: {where}, column {column!r}: row {row} has the label "
                f"{value!r}, which {unknown}; known are {words}"
                f"{', …' if len(numbers) > 10 else ''}"
            )
    return np.array([numbers[value] for value in values], dtype=np.int64)
