"""Data of any shape: what is loaded is what the files hold, or they are refused in a line."""

import csv
import io
import itertools
import json
import math

import hypothesis
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from potara_flwr.core.errors import SettingsError
from potara_flwr.data.sources import load_table

few = hypothesis.settings(
    max_examples=30,
    derandomize=True,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
NUMBERS = itertools.count()
"""Of the files, as one that was read is kept by its path."""


def loaded(place, split="train"):
    """Return the rows of a split, or nothing where it is refused in one line."""
    try:
        return load_table(str(place), "", split)
    except SettingsError as error:
        line = str(error)
    assert line.isprintable()
    return None


def same(value, written):
    """Say whether a value is what a cell says, a text or a number."""
    if value is None or isinstance(value, str):
        return (value or "") == written
    return math.isclose(float(written), value)


CELLS = st.sampled_from(
    ["", "a", "1", "-2", "0.5", "007", "1e3", "None", "NA", "nan", "True", " a ", "é", "a,b", 'a"b',
     "a\nb", "a\r\nb", "1_000", "0x1", "+1", "1.", "12345678901234567890", "#", "a;b", "\\", "'a'"]
)  # fmt: skip


@few
@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=6), st.booleans())
def test_a_csv_file_as_a_program_writes_it_is_read_whole(tmp_path, rows, windows):
    file = tmp_path / f"{next(NUMBERS)}.csv"
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\r\n" if windows else "\n")
        writer.writerows([("text", "label"), *rows])
    table = loaded(file)
    assert table is not None
    assert len(table) == len(rows)
    for found, (text, label) in zip(table, rows, strict=True):
        assert same(found["text"], text)
        assert same(found["label"], label)


PIECES = st.sampled_from(["a", "1", "007", ",", ",", '"', "\n", "\n", "\r\n", " ", ";", "é", "\t"])


@few
@given(st.lists(PIECES, max_size=30).map("".join), st.sampled_from(["text,label\n", "text\n", ""]))
def test_a_csv_file_by_hand_is_read_as_it_stands_or_refused(tmp_path, content, header):
    file = tmp_path / f"{next(NUMBERS)}.csv"
    file.write_bytes((header + content).encode())
    table = loaded(file)
    if table is None:
        return
    first, *rows = [row for row in csv.reader(io.StringIO(header + content, newline="")) if row]
    rows = [row for row in rows if len(row) > 1 or row[0].strip()]
    assert len(table) == len(rows)
    assert len(table.column_names) == len(first)
    for found, cells in zip(table, rows, strict=True):
        assert all(map(same, found.values(), cells))


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**65), 2**65) | st.integers(-3, 3),
    st.floats(width=32) | st.just(2.0),
    st.sampled_from(["", "a", "1", "2020-01-01", "2020-01-01T10:00:00Z", "é😀", "a\nb", "null"]),
    st.lists(st.sampled_from(["a", "b"]), max_size=2),
)
KIND = st.sampled_from([VALUES, st.sampled_from(["a", "2020-01-01"]), st.integers(0, 3)])


@few
@given(KIND.flatmap(lambda kind: st.lists(st.fixed_dictionaries(
    {"text": st.sampled_from(["x", "y", "2020-01-01"])}, optional={"label": kind}),
    min_size=1, max_size=5)), st.booleans())  # fmt: skip
def test_json_is_read_as_it_stands_or_refused(tmp_path, rows, as_list):
    file = tmp_path / f"{next(NUMBERS)}.{'json' if as_list else 'jsonl'}"
    file.write_text(json.dumps(rows) if as_list else "\n".join(map(json.dumps, rows)))
    table = loaded(file)
    if table is None:
        kinds = {type(row.get("label")) for row in rows} - {type(None)}
        dates = [{row.get(name) for row in rows} <= {"2020-01-01", "2020-01-01T10:00:00Z", None}
                 for name in ("text", "label") if kinds <= {str}]  # fmt: skip
        assert any(dates) or kinds not in ({str}, {bool}, set())  # of these nothing is wrong
        return
    assert table["text"][:] == [row["text"] for row in rows]
    if "label" in table.column_names:
        assert table["label"][:] == [row.get("label") for row in rows]
    else:
        assert not any("label" in row for row in rows)


NAMES = st.sampled_from(["cat", "dog", "train", "test", "a[1]", "val set", "none"])
PLACES = st.sampled_from([NAMES, NAMES, st.tuples(st.sampled_from(["train", "test"]), NAMES).map(
    "/".join), st.lists(NAMES, max_size=3).map("/".join)])  # fmt: skip
"""Folders of classes, folders of splits with these in them, or anything."""
FILES = st.sampled_from(["0.png", "train_1.png", "2.PNG", "test.bmp", "3.gif", "a.txt", ".x.png"])


@few
@given(PLACES.flatmap(lambda places: st.lists(
    st.tuples(places, FILES), min_size=1, max_size=12, unique=True)))  # fmt: skip
def test_all_images_of_a_folder_are_used_or_it_is_refused(tmp_path, files):
    folder = tmp_path / f"photos-{next(NUMBERS)}"
    for place, name in files:
        (folder / place).mkdir(parents=True, exist_ok=True)
        if name.endswith(".txt"):
            (folder / place / name).write_text("x")
        else:
            Image.new("L", (2, 2)).save(folder / place / name)
    images = [(place, name) for place, name in files if name[0] != "." and name[-1] != "t"]
    hypothesis.assume(images)
    parts = [loaded(folder, split) for split in ("train", "validation", "test")]
    rows = [part for part in parts if part is not None]
    if rows:
        names = [row.features["label"].int2str(label) for row in rows for label in row["label"]]
        assert sorted(names) == sorted(place.rpartition("/")[2] for place, _ in images)
