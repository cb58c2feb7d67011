"""A client's samples as they are prepared for the model, cached on its own disk.

On a SuperNode every message runs in a process of its own: it finds the tensors of the message
before, and reads, partitions and tokenizes nothing.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from potara_flwr.core.storage import write_whole
from potara_flwr.data.account import HeldRows, SourceRows
from potara_flwr.data.files import files_of
from potara_flwr.data.sources import listed
from potara_flwr.settings.fingerprint import fingerprint
from potara_flwr.settings.schema import Settings
from potara_flwr.tasks.base import ClientData, Samples, Task

PARTS = ("train", "calibration", "test")
DECISIVE = {"seed", "task", "model", "data", "calibration"}
"""The groups of settings that decide a client's samples."""


def cached_client(folder: Path, task: Task, client: int, code: str) -> ClientData:
    """Return the samples of a client from ``folder``; what is not there, or is of other settings,
    other code or changed data files, is prepared, and takes the place of what was there.

    Parameters
    ----------
    code : str
        The version of the code that prepares.

    Raises
    ------
    SettingsError
        The client's data cannot be used.
    """
    place = folder / f"client-{client}.safetensors"
    key = _key(task.settings, code)
    try:
        return _load(place, key)
    except (OSError, SafetensorError, KeyError, ValueError):
        data = task.load_client(client)
        _save(place, key, data)
        return data


def _key(settings: Settings, code: str) -> str:
    """Return a hash of all that decides the samples; of data on the hub its name only."""
    digest = hashlib.sha256(code.encode())
    config = settings.computed()
    digest.update(fingerprint({group: config[group] for group in DECISIVE}).encode())
    for text in (settings.data.path, settings.data.root):
        for name in filter(None, listed(text)):
            for file in files_of(Path(name).expanduser()):
                state = file.stat()
                digest.update(f"\n{file} {state.st_size} {state.st_mtime_ns}".encode())
    return digest.hexdigest()


def _load(place: Path, key: str) -> ClientData:
    """Read samples, mapped from the file; raise ValueError where they are of another key."""
    with safe_open(place, "pt") as file:
        record = json.loads((file.metadata() or {})["record"])
        if record["key"] != key:
            raise ValueError("other samples")
        parts: dict[str, Samples] = {
            part: {name: file.get_tensor(f"{part}/{name}") for name in names}
            for part, names in record["parts"].items()
        }
    return ClientData(
        record["client"],
        **parts,
        classes=tuple(record["classes"]),
        rows=HeldRows(**record["rows"]) if record["rows"] else None,
        source=SourceRows(**record["source"]) if record["source"] else None,
    )


def _save(place: Path, key: str, data: ClientData) -> None:
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    samples: dict[str, Samples] = {part: getattr(data, part) for part in PARTS}
    record = {
        "key": key, "client": data.client, "classes": data.classes,
        "rows": data.rows and data.rows.model_dump(),
        "source": data.source and data.source.model_dump(),
        "parts": {part: list(tensors) for part, tensors in samples.items()},
    }  # fmt: skip
    flat = {
        f"{part}/{name}": tensor.clone().contiguous()  # parts may share memory, files may not
        for part, tensors in samples.items()
        for name, tensor in tensors.items()
    }
    write_whole(place, save(flat, metadata={"record": json.dumps(record)}), mode=0o600)
