"""An adapter that a run has saved, read back with all that its use needs to know of the run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor

from potara_flwr.core.errors import SettingsError, StorageError
from potara_flwr.core.storage import file_hash
from potara_flwr.data.labels import write_classes
from potara_flwr.models.adapter import Adapter, kind_of
from potara_flwr.models.lora import LoraModel, load_adapter
from potara_flwr.results.run_file import ADAPTER_FILE, RUN_FILE
from potara_flwr.run_config import from_flat
from potara_flwr.settings.schema import Settings, flat


@dataclass(frozen=True)
class SavedAdapter:
    """An adapter, and what ``run.json`` next to it says."""

    folder: Path
    adapter: str
    """Which of the run's adapters it is: ``federated``, ``personalized``, or a part's name."""
    client: int | None
    """Whose it is; None is everybody's."""
    sha256: str
    settings: Settings
    """Of the run, with its classes by name (``data.classes``)."""
    tensors: Adapter


def read_saved(folder: Path) -> SavedAdapter:
    """Read an adapter, if it is the one that a run has saved there, or to where it was copied from.

    Raises
    ------
    StorageError
        There is none, or several; it is damaged, or has changed since the run.
    """
    if not folder.is_dir():
        raise StorageError(f"there is no folder {folder}")
    place = folder / RUN_FILE
    if not place.is_file() and (others := _adapters_below(folder)):
        raise StorageError(others)
    try:
        run = json.loads(place.read_text())
        config, recorded = flat(run["config"]), str(run["sha256"])
        adapter, client = str(run["adapter"]), run["client"]
        if classes := run["classes"]:
            config["data.classes"] = write_classes(classes)
    except OSError as error:
        raise StorageError(
            f"{folder} is not the folder of a run's adapter: {place.name} cannot be read "
            f"({error.strerror})"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(f"{folder}: what the run has recorded is damaged ({error!r})") from None
    check_hash(folder, recorded, place.name)
    try:
        return SavedAdapter(
            folder, adapter, client, recorded, from_flat(config), load_adapter(folder)
        )
    except SafetensorError as error:
        raise StorageError(f"{folder / ADAPTER_FILE} is damaged: {error}") from None


def _adapters_below(folder: Path) -> str:
    """Say which adapters there are below a folder without one; empty where there are none."""
    below = sorted(file.parent for file in folder.glob(f"*/{ADAPTER_FILE}"))
    clients = sorted(file.parent for file in folder.glob(f"clients/*/{ADAPTER_FILE}"))
    if not below and not clients:
        return ""
    if not (folder / "README.md").is_file():  # no client's, which has a card
        names = ", ".join(map(str, below + clients))
        return f"{folder} holds several adapters; name one of them: {names}"
    parts = {place.name for place in below} | {file.name for file in folder.glob("*.safetensors")}
    return (
        f"{folder} holds no single adapter: what the client ends with are parts that run together "
        f"({', '.join(sorted(parts))}, and what all clients share), for which no adapter stands"
    )


def check_hash(folder: Path, sha256: str, where: str) -> None:
    """Check that an adapter's file is the one that was saved.

    Raises
    ------
    StorageError
        Its SHA-256 is another than ``sha256``, which ``where`` has recorded.
    """
    found = file_hash(folder / ADAPTER_FILE)
    if found != sha256:
        raise StorageError(
            f"{folder / ADAPTER_FILE} is not the adapter that the run saved: its SHA-256 is "
            f"{found}, in {where} {sha256}"
        )


def check_fits(adapter: Adapter, model: LoraModel, folder: Path) -> None:
    """Check that an adapter, of whatever rank, is one of a base model.

    Raises
    ------
    SettingsError
        The model has no such tensor.
    """
    for name, tensor in adapter.items():
        if name not in model.initial or _shape(name, model.initial[name]) != _shape(name, tensor):
            raise SettingsError(
                f"the base model does not fit the adapter in {folder}: there is no {name} of the "
                f"shape {tuple(tensor.shape)} in it"
            )


def _shape(name: str, tensor: Tensor) -> tuple[int, ...]:
    """Return the shape of an adapter's tensor without its rank."""
    shape = tuple(tensor.shape)
    return {"A": shape[1:], "B": shape[:1] + shape[2:], "head": shape}[kind_of(name)]
