"""A client's prepared samples on its own disk: read again, and made anew where they do not fit."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from potara_flwr.tasks.cache import kept_client
from potara_flwr.tasks.workbench import Workbench


class Counting:
    """A task that counts how often it prepares."""

    def __init__(self, bench):
        self.bench, self.times = bench, 0

    def load_client(self, settings, client):
        self.times += 1
        return self.bench.task.load_client(settings, client)


@pytest.fixture
def task(bench):
    return Counting(bench)


@pytest.mark.parametrize("source", ["held-out", "training"])
def test_what_is_kept_is_what_was_prepared(task, tiny, tmp_path, source):
    settings = tiny({"calibration.source": source})
    first, second = (kept_client(tmp_path, task, settings, 1, "a") for _ in range(2))
    assert task.times == 1
    assert (second.client, second.held_out) == (1, source == "held-out")
    assert second.num_classes == first.num_classes == 10
    for part in ("train", "calibration", "test"):
        one, other = getattr(first, part), getattr(second, part)
        assert list(one) == list(other)
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_other_settings_code_or_files_are_prepared_anew(task, tiny, tmp_path):
    file = tmp_path / "root" / "a.csv"
    file.parent.mkdir()
    file.write_text("one")
    settings = tiny({"data.root": str(file.parent)})
    kept_client(tmp_path, task, settings, 0, "a")
    kept_client(tmp_path, task, tiny({"data.root": str(file.parent), "seed": 1}), 0, "a")
    assert task.times == 2
    kept_client(tmp_path, task, settings, 0, "a")
    kept_client(tmp_path, task, settings, 0, "b")
    assert task.times == 4
    file.write_text("another")
    kept_client(tmp_path, task, settings, 0, "b")
    assert task.times == 5
    more_rounds = tiny({"data.root": str(file.parent), "federation.rounds": 7})
    kept_client(tmp_path, task, more_rounds, 0, "b")
    assert task.times == 5


def test_a_damaged_file_is_replaced(task, tiny, tmp_path):
    kept_client(tmp_path, task, tiny(), 2, "a")
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    kept_client(tmp_path, task, tiny(), 2, "a")
    assert task.times == 2
    assert load_file(file)
    assert list(tmp_path.iterdir()) == [file]


def test_a_workbench_keeps_samples_where_it_is_told_to(tiny, tmp_path):
    bench = Workbench(tiny())
    bench.kept_in = tmp_path / "data"
    bench.client(0)
    assert [file.name for file in (tmp_path / "data").iterdir()] == ["client-0.safetensors"]
