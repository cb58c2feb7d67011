"""Data sources: hub-like folders, files and folders of images, and what cannot be read."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from potara_flwr.core.errors import SettingsError
from potara_flwr.data.sources import check_columns, describe, listed, load_table

ROWS = [{"text": f"text {number}", "label": number % 2} for number in range(6)]

CARD = """---
configs:
- config_name: plain
  data_files:
  - split: train
    path: plain/train.csv
  - split: test
    path: plain/test.csv
- config_name: other
  data_files:
  - split: train
    path: other.csv
---
"""


@pytest.fixture
def hub_like(tmp_path):
    """A folder laid out as a data set of the hub: a card with two configurations."""
    folder = tmp_path / "reviews"
    (folder / "plain").mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    pd.DataFrame(ROWS).to_csv(folder / "plain" / "train.csv", index=False)
    pd.DataFrame(ROWS[:2]).to_csv(folder / "plain" / "test.csv", index=False)
    pd.DataFrame(ROWS[:3]).to_csv(folder / "other.csv", index=False)
    return folder


def error_of(*arguments) -> str:
    with pytest.raises(SettingsError) as error:
        load_table(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("suffix", ["csv", "json", "jsonl", "parquet"])
def test_every_file_format_gives_the_same_rows(tmp_path, suffix):
    file = tmp_path / f"rows.{suffix}"
    table = pd.DataFrame(ROWS)
    if suffix == "csv":
        table.to_csv(file, index=False)
    elif suffix == "json":
        file.write_text(json.dumps(ROWS))
    elif suffix == "jsonl":
        table.to_json(file, orient="records", lines=True)
    else:
        table.to_parquet(file)
    assert load_table(str(file), "", "train").to_list() == ROWS
    assert load_table(str(file), "", "train[:2]").to_list() == ROWS[:2]


def test_a_folder_laid_out_as_on_the_hub_has_its_configurations_and_splits(hub_like):
    assert load_table(str(hub_like), "plain", "train").to_list() == ROWS
    assert load_table(str(hub_like), "plain", "test").to_list() == ROWS[:2]
    assert load_table(str(hub_like), "other", "train").to_list() == ROWS[:3]


def test_a_folder_of_files_named_by_split(tmp_path):
    for split, rows in (("train", ROWS), ("test", ROWS[:1])):
        pd.DataFrame(rows).to_parquet(tmp_path / f"{split}.parquet")
    assert len(load_table(str(tmp_path), "", "train")) == 6
    assert len(load_table(str(tmp_path), "", "test")) == 1


def test_images_in_folders_named_by_class(tmp_path):
    for split, number in (("train", 3), ("test", 1)):
        for label, name in enumerate(("cat", "dog")):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for index in range(number):
                pixels = np.full((4, 4, 3), 10 * label + index, dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    table = load_table(str(tmp_path), "", "train")
    assert table.features["label"].names == ["cat", "dog"]
    assert table["label"] == [0, 0, 0, 1, 1, 1]
    assert np.asarray(table[4]["image"])[0, 0].tolist() == [11, 11, 11]
    assert len(load_table(str(tmp_path), "", "test")) == 2


def test_what_cannot_be_read_is_one_clear_line(tmp_path, hub_like):
    assert error_of("", "", "train").startswith("data.path is empty")
    assert "there is no file" in error_of(str(tmp_path / "no.csv"), "", "train")
    (tmp_path / "rows.xlsx").write_bytes(b"PK")
    assert "must end in .parquet, .csv" in error_of(str(tmp_path / "rows.xlsx"), "", "train")
    (tmp_path / "broken.parquet").write_text("no parquet")
    assert "broken.parquet cannot be read: Parquet magic bytes not found" in error_of(
        str(tmp_path / "broken.parquet"), "", "train"
    )
    assert "llm.path: no/such-data" in error_of("no/such-data", "", "train", "llm.path")
    assert "available configs: ['plain', 'other']" in error_of(str(hub_like), "", "train")
    assert "reviews (plane), split train" in error_of(str(hub_like), "plane", "train")
    assert "reviews (other), split test cannot" in error_of(str(hub_like), "other", "test")
    (tmp_path / "empty.csv").write_text("text,label\n")
    assert "empty.csv cannot be read: it has no rows" in error_of(
        str(tmp_path / "empty.csv"), "", "train"
    )


def test_a_missing_column_names_setting_source_and_columns(hub_like):
    table = load_table(str(hub_like), "plain", "train")
    where = describe(str(hub_like), "plain", "train")
    check_columns(table, {"data.text-column": "text", "data.split-column": ""}, where)
    with pytest.raises(SettingsError) as error:
        check_columns(table, {"data.text-column": "words"}, where)
    assert str(error.value) == (
        "data.text-column is 'words', but reviews (plain), split train has the columns text, label"
    )


def test_a_folder_that_changes_is_read_anew(tmp_path):
    # datasets' own cache tells folders with a README apart by their last name and README alone.
    readme = "---\nconfigs:\n- config_name: default\n  data_files: rows.parquet\n---\n"
    for number, parent in enumerate(("one", "two", "two")):
        folder = tmp_path / parent / "reviews"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "README.md").write_text(readme)
        pd.DataFrame({"text": [f"text {number}"]}).to_parquet(folder / "rows.parquet")
        load_table.cache_clear()
        assert load_table(str(folder), "", "train")["text"] == [f"text {number}"]


@pytest.mark.parametrize(
    "name", ["data[1].csv", "da?a.csv", "da*.csv", "{a}.csv", "a, b.csv", "[x]/data.csv", "d.CSV"]
)
def test_the_file_that_is_named_is_the_one_that_is_read(tmp_path, name):
    (tmp_path / "[x]").mkdir()
    (tmp_path / "x").mkdir()
    for other in ("data1.csv", "data.csv", "a.csv", "x/data.csv", "a", " b.csv"):
        (tmp_path / other).write_text("text,label\nwrong,no\n")
    (tmp_path / name).write_text("text,label\nright,yes\n")
    path = str(tmp_path / name)
    assert listed(path) == [path]
    assert load_table(path, "", "train")["text"][:] == ["right"]


def test_a_file_that_has_changed_is_read_anew_where_it_is_reached_by_a_link(tmp_path):
    file = tmp_path / "data[1].csv"
    for word in ("old", "newer"):
        file.write_text(f"text,label\n{word},yes\n")
        load_table.cache_clear()
        assert load_table(str(file), "", "train")["text"][:] == [word]


def test_a_folder_is_literal_too(tmp_path):
    for name, word in (("set[1]", "right"), ("set1", "wrong")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.csv").write_text(f"text,label\n{word},yes\n")
    assert load_table(str(tmp_path / "set[1]"), "", "train")["text"][:] == ["right"]


@pytest.mark.parametrize("folder", [False, True])
def test_only_an_empty_cell_is_missing(tmp_path, folder):
    words = ["None", "NA", "null", "nan", "n/a"]
    file = tmp_path / "words.csv"
    file.write_text("text,label\n" + "".join(f"{word},yes\n" for word in words) + ",no\n")
    table = load_table(str(tmp_path if folder else file), "", "train")
    assert table["text"][:] == [*words, None]


def test_several_values_are_a_line_of_a_csv_file():
    assert listed('a.csv, "b, c.csv" ,d.csv') == ["a.csv", "b, c.csv", "d.csv"]
    assert listed("") == [""]
