"""Data files of the user's own, checked row by row before `datasets` reads them.

`datasets` tells the type of a csv column from one block of rows and of a json column from one part
of the file: a word in row 10,020 of a column of numbers ends in an error without a row, "007"
becomes 7, and a row with a cell too many shifts all others. Here every cell is looked at first: a
column of a csv is of numbers where all its cells are, and text as it is written elsewhere.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from potara_flwr.core.lazy import lazy

if TYPE_CHECKING:
    import datasets
else:
    datasets = lazy("datasets")

AS_WRITTEN = {"keep_default_na": False, "na_values": [""]}
"""Options of a csv: only an empty cell is missing; None, NA and null are words."""
WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,17})")
DECIMAL = re.compile(r"-?((0|[1-9][0-9]*)(\.[0-9]*|(?=[eE]))|\.[0-9]+)([eE][-+]?[0-9]+)?")
DATE = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"([ T][0-9]{2}(:?[0-9]{2}(:?[0-9]{2}([.,][0-9]+)?)?)?(Z|[+-][0-9]{2}(:?[0-9]{2})?)?)?"
)
"""A text that Arrow's reader of json takes for a time, and would write in another way."""
LONGEST_CELL = 2**31 - 1

Types = dict[str, str]
"""Column → ``int64``, ``float64``, ``bool``, ``string``; ``null`` where all cells are empty."""


def features_of(files: Iterable[Path], form: str) -> datasets.Features | None:
    """Check data files that together are one table, and return what their columns are; None where
    these hold lists or objects.

    Parameters
    ----------
    form : str
        ``csv`` or ``json``.

    Raises
    ------
    ValueError
        A file cannot be used; names the row, and the file where there are several.
    """
    check: Callable[[Path], Types | None] = csv_types if form == "csv" else json_types
    every = list(files)
    types: Types | None = {}
    for number, file in enumerate(every):
        try:
            own = check(file)
        except ValueError as error:
            raise ValueError(f"{file.name}: {error}" if len(every) > 1 else str(error)) from None
        if own is None or types is None:
            types = None
        elif number and form == "csv" and set(own) != set(types):
            raise ValueError(
                f"{file.name} has the columns {', '.join(own)}, but {every[0].name} has "
                f"{', '.join(types)}"
            )
        else:
            types = {name: _both(types.get(name, "null"), own.get(name, "null"))
                     for name in {**types, **own}}  # fmt: skip
    if types is None:
        return None
    kinds = {name: "string" if kind == "null" else kind for name, kind in types.items()}
    return datasets.Features({name: datasets.Value(kind) for name, kind in kinds.items()})


def _both(one: str, other: str) -> str:
    """Return the type that holds the values of both."""
    kinds = {one, other} - {"null"}
    if len(kinds) < 2:
        return kinds.pop() if kinds else "null"
    return "float64" if kinds == {"int64", "float64"} else "string"


def csv_types(file: Path) -> Types:
    """Check every row of a csv file, and return the types of its columns.

    Raises
    ------
    ValueError
        It is empty or no UTF-8 text, a column is there twice, a row has more or fewer cells than
        the header, or a quote is never closed; names row and line.
    """
    csv.field_size_limit(LONGEST_CELL)
    number = -1
    with _text_of(file) as stream:
        rows = csv.reader(stream, strict=True)
        try:
            header = next((row for row in rows if row), None)
            names = _columns(header)
            types, empty = dict.fromkeys(names, "null"), set()
            for row in rows:
                if not row or (len(row) == 1 and not row[0].strip()):
                    continue
                number += 1
                if len(row) != len(names):
                    raise ValueError(
                        f"row {number} (line {rows.line_num}) has {len(row)} cells, but there are "
                        f"{len(names)} columns; put cells with a comma in double quotes"
                    )
                for name, cell in zip(names, row, strict=True):
                    if not cell:
                        empty.add(name)
                    elif (kind := types[name]) != "string":
                        types[name] = _both(kind, _type_of(cell))
        except csv.Error as error:
            if "end of data" in str(error):
                error = csv.Error("a double quote that opens there is never closed")
            raise ValueError(f"row {number + 1} (up to line {rows.line_num}): {error}") from None
        except UnicodeDecodeError:
            _complain_of_encoding(file)
    if number < 0:
        raise ValueError("it has no rows")
    return {
        name: "float64" if kind == "int64" and name in empty else kind
        for name, kind in types.items()
    }


def _columns(header: list[str] | None) -> list[str]:
    """Return the names of columns, as pandas has them: one that has none is the index."""
    if header is None:
        raise ValueError("it is empty")
    for name in header:
        if name and header.count(name) > 1:
            raise ValueError(f"there are two columns {name!r}; rename one")
    others = [mark for mark in (";", "\t", "|") if len(header) == 1 and mark in header[0]]
    if others:
        raise ValueError(f"its cells are separated by {others[0]!r}; save it with commas")
    return [name or f"Unnamed: {place}" for place, name in enumerate(header)]


def _type_of(cell: str) -> str:
    if WHOLE.fullmatch(cell):
        return "int64"
    return "float64" if DECIMAL.fullmatch(cell) and math.isfinite(float(cell)) else "string"


def _text_of(file: Path) -> TextIO:
    return file.open(encoding="utf-8-sig", newline="")


def _complain_of_encoding(file: Path) -> NoReturn:
    """Raise a ValueError that says where a file is no UTF-8 text."""
    stored = file.read_bytes()
    if stored[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise ValueError("it is UTF-16 text; save it as UTF-8")
    try:
        stored.decode("utf-8")
    except UnicodeDecodeError as error:
        line = stored.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"line {line} is no UTF-8 text (byte 0x{stored[error.start]:02x}); save it as UTF-8"
        ) from None
    raise ValueError("it has changed while it was read")


def json_types(file: Path) -> Types | None:
    """Check every row of a json or jsonl file, and return the types of its columns; None where some
    hold lists or objects.

    Raises
    ------
    ValueError
        It is empty, no UTF-8 text or no json, a row is no object, or a column has values of several
        kinds; names the row. Or a column has dates alone, which would not stay as they are written.
    """
    first: dict[str, tuple[str, int]] = {}
    words: set[str] = set()
    number = -1
    try:
        for number, row in enumerate(_json_rows(file)):
            if not isinstance(row, dict):
                raise ValueError(f"row {number} is no object with columns, but {_shown(row)}")
            for name, value in row.items():
                if value is None:
                    continue
                kind = _kind_of(value, f"row {number}, column {name!r}")
                known, at = first.setdefault(name, (kind, number))
                if kind == "string" and name not in words and not DATE.fullmatch(value):
                    words.add(name)
                if kind != known:
                    both = _both(known, kind)
                    if both != "float64":
                        raise ValueError(
                            f"row {number}, column {name!r}: it is {_shown(value)}, {WORDS[kind]}, "
                            f"but row {at} has {WORDS[known]}; write the same kind everywhere"
                        )
                    first[name] = (both, at)
    except UnicodeDecodeError:
        _complain_of_encoding(file)
    if number < 0:
        raise ValueError("it has no rows")
    types = {name: kind for name, (kind, _) in first.items()}
    dates = [name for name, kind in types.items() if kind == "string" and name not in words]
    if dates:
        raise ValueError(
            f"column {dates[0]!r}: all its texts are dates, which json does not keep as they are "
            "written; save it as csv or parquet"
        )
    return None if {"list", "object"} & set(types.values()) else types


WORDS = {
    "bool": "true or false", "int64": "a number", "float64": "a number", "string": "a text",
    "list": "a list", "object": "an object",
}  # fmt: skip


def _kind_of(value: Any, where: str) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise ValueError(f"{where}: the number {value} is too large; write it as a text")
        return "int64"
    if isinstance(value, float):
        return "float64"
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{where}: it has half a character (a surrogate)") from None
        return "string"
    return "list" if isinstance(value, list) else "object"


def _json_rows(file: Path) -> Iterator[Any]:
    """Yield the rows of a list of objects, or of one object a line."""
    with _text_of(file) as stream:
        start = next((line for line in stream if line.strip()), "")
        if not start:
            raise ValueError("it is empty")
        stream.seek(0)
        if start.lstrip().startswith("["):
            yield from _parsed(stream.read(), "it")
            return
        if start.strip().startswith("{") and _is_cut(start):
            _check_rows(_parsed(stream.read(), "it"), cut=True)
        lines = (line for line in stream if line.strip())
        first_two = list(itertools.islice(lines, 2))
        if len(first_two) == 1:
            _check_rows(_parsed(first_two[0], "row 0"))
        for number, line in enumerate(itertools.chain(first_two, lines)):
            yield _parsed(line, f"row {number}")


def _check_rows(only: Any, *, cut: bool = False) -> None:
    """Check that the only value of a file is a row, and not a table by its columns."""
    columns = only.values() if isinstance(only, dict) else ()
    if cut or (columns and all(isinstance(column, list | dict) for column in columns)):
        raise ValueError(
            "it is one object of columns, not a list of rows; write an object a row (pandas: "
            "to_json(orient='records', lines=True))"
        )


def _is_cut(line: str) -> bool:
    """Say whether an object does not end on its line."""
    try:
        json.loads(line)
    except json.JSONDecodeError as error:
        return error.pos >= len(line.rstrip()) - 1
    return False


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        place = f" in line {error.lineno}" if "\n" in text.strip() else ""
        raise ValueError(f"{where} is no json{place}: {error.msg} at {error.colno}") from None
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of json; write null")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the column {twice!r} is there twice")
    return row


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:39]}…"
