"""Files that are whole or not there, on disks that are full and after what happens to files."""

import errno
import hashlib
import os
import stat

import numpy as np
import pytest
from full_disk import fill_disk
from safetensors import SafetensorError
from safetensors.numpy import save_file

from potara_flwr.core.errors import StorageError
from potara_flwr.core.storage import (
    file_hash,
    load_record,
    save_record,
    whole_folder,
    write_whole,
    writing,
)

ARRAYS = {
    "z": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a": np.array([-7, 8], dtype=np.int8),
    "bits": np.array([40000], dtype=np.uint16),
    "none": np.zeros((0, 4), np.float32),
}


def test_a_record_comes_back_as_it_was(tmp_path):
    values = {"round": 3, "seconds": 0.1 + 0.2, "rounds": [{"loss": None}]}
    save_record(tmp_path / "r.safetensors", values, ARRAYS)
    again, arrays = load_record(tmp_path / "r.safetensors")
    assert again == values
    assert list(arrays) == list(ARRAYS)  # int8 scales are told apart by their order
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array)
        assert arrays[name].dtype == array.dtype
    assert [place.name for place in tmp_path.iterdir()] == ["r.safetensors"]


def test_a_record_may_hold_no_arrays(tmp_path):
    save_record(tmp_path / "r", {"a": 1}, {})
    assert load_record(tmp_path / "r") == ({"a": 1}, {})


def test_every_changed_byte_is_seen(tmp_path):
    place = tmp_path / "r.safetensors"
    save_record(place, {"round": 3}, ARRAYS)
    good = place.read_bytes()
    for at in range(0, len(good), 7):
        place.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        with pytest.raises(StorageError, match=r"r\.safetensors is damaged"):
            load_record(place)
    for end in (0, 5, len(good) // 2, len(good) - 1):
        place.write_bytes(good[:end])
        with pytest.raises(StorageError, match=r"r\.safetensors is damaged"):
            load_record(place)


def test_a_file_of_another_kind_is_no_record(tmp_path):
    save_file(ARRAYS, tmp_path / "adapter.safetensors")
    (tmp_path / "text").write_text("hello")
    for name in ("adapter.safetensors", "text"):
        with pytest.raises(StorageError, match="is damaged, or no such file"):
            load_record(tmp_path / name)
    with pytest.raises(StorageError, match="cannot be read"):
        load_record(tmp_path / "nowhere")


def test_a_full_disk_leaves_the_last_good_file(tmp_path, monkeypatch):
    save_record(tmp_path / "r", {"round": 1}, ARRAYS)
    with monkeypatch.context() as patch:
        fill_disk(patch, "*")
        with pytest.raises(StorageError) as error:
            save_record(tmp_path / "r", {"round": 2}, ARRAYS)
    line = str(error.value)
    assert str(tmp_path / "r") in line
    assert os.strerror(errno.ENOSPC) in line
    assert "\n" not in line
    assert load_record(tmp_path / "r")[0] == {"round": 1}
    assert [place.name for place in tmp_path.iterdir()] == ["r"]


def test_what_a_killed_process_left_is_in_nobodys_way(tmp_path):
    (tmp_path / ".r.tmp").write_bytes(b"half of somethi")
    write_whole(tmp_path / "r", b"whole")
    assert [place.name for place in tmp_path.iterdir()] == ["r"]


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "clients" / "0"
    with whole_folder(folder) as target:
        (target / "old").write_text("old")
    with pytest.raises(StorageError, match="cannot be written"), whole_folder(folder) as target:
        (target / "new" / "deep").write_text("the folder above is not there")
    assert [file.name for file in folder.iterdir()] == ["old"]
    with whole_folder(folder) as target:
        (target / "new").write_text("new")
    assert [file.name for file in folder.iterdir()] == ["new"]
    assert [file.name for file in folder.parent.iterdir()] == ["0"]


def test_the_umask_says_who_may_read_a_file_unless_it_is_its_owners_alone(tmp_path):
    (tmp_path / ".open.tmp").touch(0o600)
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "open", b"")
        write_whole(tmp_path / "secret", b"", mode=0o600)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "open").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600


def test_safetensors_own_errors_are_lines_too(tmp_path):
    with pytest.raises(StorageError, match="No space left"), writing(tmp_path):
        raise SafetensorError("I/O error: No space left on device (os error 28)")


def test_the_hash_of_a_file_is_its_sha256(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    assert file_hash(tmp_path / "f") == hashlib.sha256(b"abc").hexdigest()
    with pytest.raises(StorageError, match="cannot be read"):
        file_hash(tmp_path / "g")
