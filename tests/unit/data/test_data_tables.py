"""Data files row by row: types by whole columns, and what cannot be used by its row."""

import json
import logging

import pandas as pd
import pytest

from potara_flwr.core.errors import SettingsError
from potara_flwr.data.sources import load_table


def error_of(file, content, encoding="utf-8"):
    file.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    with pytest.raises(SettingsError) as error:
        load_table(str(file), "", "train")
    assert str(error.value).isprintable()
    return str(error.value)


ROWS = "".join(f"text {number},{number % 2}\n" for number in range(12_000))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"\n \n", "cannot be read: it has no rows"),
        ("text,label\n", "it has no rows"),
        ("text,text\na,b\n", "there are two columns 'text'"),
        ("text;label\na;b\n", "separated by ';'; save it with commas"),
        ("text\tlabel\na\tb\n", r"separated by '\t'"),
        ("text,label\na,b\nc\n", "row 1 (line 3) has 1 cells, but there are 2 columns"),
        ("text,label\na,b,\nc,d,\n", "row 0 (line 2) has 3 cells"),
        ('text,label\na,b\n"c,d\ne,f\n', "row 1 (up to line 4): a double quote that opens"),
        ('text,label\n"a"b,c\n', "row 0 (up to line 2): ',' expected after '\"'"),
        ("text,label\na,b\né,c\n".encode("latin-1"), "line 3 is no UTF-8 text (byte 0xe9)"),
        ("text,label\na,b\n".encode("utf-16"), "it is UTF-16 text; save it as UTF-8"),
        (f"text,label\n{ROWS}a,b,c\n", "row 12000 (line 12002) has 3 cells"),
    ],
)
def test_a_csv_file_that_cannot_be_used_is_named_with_its_row(tmp_path, content, words):
    line = error_of(tmp_path / "rows.csv", content)
    assert line.startswith("data.path: rows.csv cannot be read: ")
    assert words in line


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["1", "02", "3"], ["1", "02", "3"]),
        (["1", "", "3"], [1.0, None, 3.0]),
        (["1", "-2", "0"], [1, -2, 0]),
        (["1", "2.5", "1e3", ".5"], [1.0, 2.5, 1000.0, 0.5]),
        (["1", "e5", "2"], ["1", "e5", "2"]),
        (["1", "1e999"], ["1", "1e999"]),
        (["1", "nan"], ["1", "nan"]),
        (["123456789012345678901", "1"], ["123456789012345678901", "1"]),
        (["True", "false"], ["True", "false"]),
        (["", ""], [None, None]),
        (["None", "NA"], ["None", "NA"]),
        (['"a\nb"', '"c ""d"""'], ["a\nb", 'c "d"']),
        ([" a", "b "], [" a", "b "]),
    ],
)
def test_a_column_of_a_csv_is_of_numbers_where_all_cells_are(tmp_path, cells, values):
    (tmp_path / "rows.csv").write_text("x,y\n" + "".join(f"{cell},.\n" for cell in cells))
    assert load_table(str(tmp_path / "rows.csv"), "", "train")["x"][:] == values


def test_blocks_of_rows_do_not_decide_about_types(tmp_path):
    (tmp_path / "rows.csv").write_text(f"text,label\n{ROWS}last,unsure\n1,0\n")
    table = load_table(str(tmp_path / "rows.csv"), "", "train")
    assert table["label"][:2] + table["label"][-2:] == ["0", "1", "unsure", "0"]
    assert len(table) == 12_002


def test_a_byte_order_mark_and_line_ends_of_windows_are_no_text(tmp_path):
    (tmp_path / "rows.csv").write_bytes(b"\xef\xbb\xbftext,label\r\na,b\r\n\r\nc,d\r\n")
    assert load_table(str(tmp_path / "rows.csv"), "", "train").to_list() == [
        {"text": "a", "label": "b"},
        {"text": "c", "label": "d"},
    ]


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "it is empty"),
        ("[]", "it has no rows"),
        ('{"text": ["a", "b"], "label": [0, 1]}', "one object of columns, not a list of rows"),
        ('{"text": {"0": "a"}, "label": {"0": 1}}', "one object of columns"),
        ('{\n "text": ["a"],\n "label": [0]\n}', "one object of columns"),
        ('{"a": 1}\n{"a": 2\n', "row 1 is no json: Expecting ',' delimiter"),
        ('{"a": 1}\n[1]\n', "row 1 is no object with columns, but [1]"),
        ('["a", "b"]', "row 0 is no object with columns, but 'a'"),
        ('[{"a": 1},\n{"a": 2}', "it is no json in line 2: Expecting ',' delimiter"),
        ('{"a": 0}\n{"a": 1}\n{"a": "unsure"}\n', "row 2, column 'a': it is 'unsure', a text, but"),
        ('{"a": "x"}\n{"a": ["y"]}\n', "row 1, column 'a': it is ['y'], a list, but row 0 has"),
        ('{"a": 1}\n{"a": true}\n', "row 1, column 'a': it is True, true or false, but row 0"),
        ('{"a": 1}\n{"a": NaN}\n', "row 1: NaN is no number of json"),
        ('{"a": 1}\n{"a": 2, "a": 3}\n', "row 1: the column 'a' is there twice"),
        (f'{{"a": 1}}\n{{"a": {2**64}}}\n', "row 1, column 'a': the number 18446744073709551616"),
        ('{"a": "x"}\n{"a": "\\ud800"}\n', "row 1, column 'a': it has half a character"),
        ('{"a": "é"}\n{"a": "é"}\n'.encode("latin-1"), "line 1 is no UTF-8 text"),
    ],
)
def test_a_json_file_that_cannot_be_used_is_named_with_its_row(tmp_path, suffix, content, words):
    line = error_of(tmp_path / f"rows.{suffix}", content)
    assert line.startswith(f"data.path: rows.{suffix} cannot be read: ")
    assert words in line


def test_a_column_of_json_may_be_missing_and_numbers_may_be_of_both_kinds(tmp_path):
    rows = [{"a": 1, "b": "x"}, {"b": None}, {"a": 2.5}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    table = load_table(str(tmp_path / "rows.jsonl"), "", "train")
    assert table["a"][:] == [1.0, None, 2.5]
    assert table["b"][:] == ["x", None, None]


def test_a_file_of_a_folder_is_named(tmp_path):
    (tmp_path / "train.csv").write_text("text,label\na,b\n")
    (tmp_path / "test.csv").write_text("text,label\na\n")
    with pytest.raises(SettingsError, match=r"cannot be read: test.csv: row 0 \(line 2\) has 1"):
        load_table(str(tmp_path), "", "train")
    (tmp_path / "test.csv").write_text("text,kind\na,b\n")
    with pytest.raises(SettingsError, match=r"has the columns text, .*, but"):
        load_table(str(tmp_path), "", "train")


def test_files_of_a_folder_have_one_type_a_column_together(tmp_path):
    (tmp_path / "train.csv").write_text("text,label\na,1\nb,2\n")
    (tmp_path / "test.csv").write_text("text,label\na,x\n")
    assert load_table(str(tmp_path), "", "train")["label"][:] == ["1", "2"]


def test_data_files_that_are_in_no_split_are_refused_or_said(tmp_path, caplog):
    rows = pd.DataFrame({"text": ["a"] * 200, "label": ["b"] * 200})
    for name in ("train_2.csv", "test.csv"):
        rows.to_csv(tmp_path / name, index=False)
    rows[:10].to_csv(tmp_path / "few.csv", index=False)
    with caplog.at_level(logging.WARNING):
        assert len(load_table(str(tmp_path), "", "train")) == 200
    assert "1 of its 3 data files are in no split" in caplog.text
    rows.to_csv(tmp_path / "reviews.csv", index=False)
    load_table.cache_clear()
    with pytest.raises(SettingsError, match=r"2 of its 4 data files are in no .*few.csv, revi"):
        load_table(str(tmp_path), "", "train")
