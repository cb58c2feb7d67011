"""Files that are whole or not there: written atomically, and read only if nothing has changed them.

A record is one safetensors file (https://huggingface.co/docs/safetensors) of arrays, with what is
no array as JSON in its metadata, and a checksum over both.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from potara_flwr.core.arrays import Arrays
from potara_flwr.core.errors import StorageError


def write_whole(place: Path, data: bytes, mode: int = 0o666) -> None:
    """Write a file, whole or not at all; it outlasts a crash of the machine right after. Folders
    above it that lack are made.

    Parameters
    ----------
    mode : int
        Who may read and write it, as far as the umask lets them; 0o600 is its owner alone.

    Raises
    ------
    StorageError
        The disk is full, or the place cannot be written; what was there before is there still.
    """
    # The name is always the same, so that what a killed process leaves is in nobody's way.
    temporary = place.with_name(f".{place.name}.tmp")
    with writing(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.unlink(missing_ok=True)
            temporary.touch(mode)
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, place)
        except OSError:
            with suppress(OSError):  # nothing more can be done where it cannot be removed either
                temporary.unlink(missing_ok=True)
            raise
        sync(place.parent)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary folder that takes the place of ``folder`` once it is complete.

    Raises
    ------
    StorageError
        Something in it cannot be written; what was there before is there still.
    """
    temporary, before = (folder.with_name(f".{folder.name}.{end}") for end in ("tmp", "old"))
    with writing(folder):
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            yield temporary
            for place in (*temporary.rglob("*"), temporary):
                sync(place)
            shutil.rmtree(before, ignore_errors=True)
            if folder.exists():  # no call of Python's exchanges two folders: gone between two lines
                os.replace(folder, before)
            os.replace(temporary, folder)
            sync(folder.parent)
        finally:
            if before.exists() and not folder.exists():
                os.replace(before, folder)
            for rest in (temporary, before):
                shutil.rmtree(rest, ignore_errors=True)


def sync(place: Path) -> None:
    """Have the disk keep a file or a folder's list of names (fsync)."""
    handle = os.open(place, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Say in one line what could not be written.

    Raises
    ------
    StorageError
        The block raised an error of the system, such as one of a full disk.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:  # safetensors wraps the system's errors
        reason = getattr(error, "strerror", None) or error
        raise StorageError(
            f"{place} cannot be written ({reason}); make room or mend the folder, and go on: what "
            "was saved before is still there"
        ) from None


def save_record(place: Path, values: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write values (as JSON) and arrays to one file, whole or not at all.

    Raises
    ------
    StorageError
        It cannot be written.
    """
    # The format has an order of its own; the names keep ours.
    text = json.dumps({"values": values, "names": list(arrays)}, allow_nan=False)
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    write_whole(place, save(whole, metadata={"record": text, "sha256": checksum(whole, text)}))


def load_record(place: Path) -> tuple[dict[str, Any], Arrays]:
    """Read what :func:`save_record` has written.

    Raises
    ------
    StorageError
        The file is damaged, or of another kind.
    """
    try:
        with safe_open(place, "numpy") as file:
            metadata = file.metadata() or {}
            record = json.loads(metadata["record"])
            arrays = {name: file.get_tensor(name) for name in record["names"]}
        if metadata["sha256"] != checksum(arrays, metadata["record"]):
            raise StorageError(f"{place} is damaged: its checksum is wrong")
        return record["values"], arrays
    except OSError as error:
        raise StorageError(f"{place} cannot be read ({error.strerror or error})") from None
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise StorageError(f"{place} is damaged, or no such file: {error}") from None


def checksum(arrays: Mapping[str, np.ndarray], text: str = "") -> str:
    """Return the SHA-256 of arrays, with their names, types and shapes, and of a text."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"\n{name} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def file_hash(place: Path) -> str:
    """Return the SHA-256 of a file, as ``sha256sum`` prints it.

    Raises
    ------
    StorageError
        It cannot be read.
    """
    try:
        with place.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StorageError(f"{place} cannot be read ({error.strerror or error})") from None
