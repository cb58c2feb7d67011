"""Prepared rows: told their positions, cached where no folder grows long."""

from pathlib import Path

import datasets
import pytest

from potara_flwr.data.prepared import POSITION, prepare_rows


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f'{{"text": "{letter}"}}\n' for letter in "abcdef"))
    return datasets.load_dataset(
        "json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache")
    )


def test_rows_are_prepared_with_their_positions_and_once(rows):
    seen = []

    def prepare(columns):
        seen.extend(columns[POSITION])
        return {"word": [f"{text}{at}" for text, at in zip(*columns.values(), strict=True)]}

    some = rows.select([4, 1])
    for _ in range(2):
        assert prepare_rows(some, prepare, positions=[40, 10])["word"][:] == ["e40", "b10"]
    assert seen == [40, 10]


def test_every_client_has_its_prepared_rows_in_one_of_many_folders(rows):
    def prepare(columns):
        return {"length": [len(text) for text in columns["text"]]}

    prepared = [prepare_rows(rows.select([at]), prepare) for at in range(6)]
    files = [Path(table.cache_files[0]["filename"]) for table in prepared]
    cache = Path(rows.cache_files[0]["filename"]).parent
    assert len(set(files)) == 6
    for file in files:
        assert file.parents[1] == cache / "prepared"
        assert file.name.startswith(f"cache-{file.parent.name}")
    assert [file.name for file in cache.glob("cache-*")] == []
