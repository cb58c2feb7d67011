"""A client's prepared samples on its own disk: read again, and made anew where they do not fit."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from potara_flwr.data.account import SourceRows
from potara_flwr.tasks.cache import cached_client
from potara_flwr.tasks.digits import Digits
from potara_flwr.tasks.workbench import Workbench


class Counting:
    """A task that counts how often it prepares."""

    def __init__(self, settings):
        self.settings, self.times = settings, 0

    def load_client(self, client):
        self.times += 1
        return Digits(self.settings).load_client(client)


@pytest.fixture
def task(tiny):
    return Counting(tiny())


def test_what_is_kept_is_what_was_prepared(task, tmp_path):
    first, second = (cached_client(tmp_path, task, 1, "a") for _ in range(2))
    assert task.times == 1
    assert second.client == 1
    assert second.classes == first.classes == tuple("0123456789")
    assert second.rows == first.rows
    assert (
        second.source
        == first.source
        == SourceRows(number=0, found=3000, unused_splits=0, no_client=0)
    )
    for part in ("train", "calibration", "test"):
        one, other = getattr(first, part), getattr(second, part)
        assert list(one) == list(other)
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_other_settings_code_or_files_are_prepared_anew(task, tiny, tmp_path):
    file = tmp_path / "root" / "a.csv"
    file.parent.mkdir()
    file.write_text("one")
    settings = task.settings = tiny({"data.root": str(file.parent)})
    cached_client(tmp_path, task, 0, "a")
    task.settings = tiny({"data.root": str(file.parent), "seed": 1})
    cached_client(tmp_path, task, 0, "a")
    assert task.times == 2
    task.settings = settings
    cached_client(tmp_path, task, 0, "a")
    cached_client(tmp_path, task, 0, "b")
    assert task.times == 4
    file.write_text("another")
    cached_client(tmp_path, task, 0, "b")
    assert task.times == 5
    task.settings = tiny({"data.root": str(file.parent), "federation.rounds": 7})
    cached_client(tmp_path, task, 0, "b")
    assert task.times == 5


def test_a_damaged_file_is_replaced(task, tmp_path):
    cached_client(tmp_path, task, 2, "a")
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    cached_client(tmp_path, task, 2, "a")
    assert task.times == 2
    assert load_file(file)
    assert list(tmp_path.iterdir()) == [file]


def test_a_workbench_caches_samples_where_it_is_told_to(tiny, tmp_path):
    Workbench(tiny()).client(0, tmp_path / "data")
    assert [file.name for file in (tmp_path / "data").iterdir()] == ["client-0.safetensors"]
