"""Saved adapters as servers and converters take them: peft folders, or plain models of theirs.

:func:`export_results` is all of it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils.hub import cached_file

from potara_flwr.core.errors import SettingsError, StorageError
from potara_flwr.core.storage import whole_folder
from potara_flwr.models.adapter import lora_pairs
from potara_flwr.models.peft_adapter import read_peft_adapter
from potara_flwr.models.pretrained import find_model, load_config
from potara_flwr.results.run_file import ADAPTER_FILE
from potara_flwr.results.saving import CLASSES_FILE
from potara_flwr.saved import SavedAdapter, read_saved
from potara_flwr.settings.groups import ModelSettings
from potara_flwr.settings.schema import Settings
from potara_flwr.tasks import TASKS
from potara_flwr.tasks.causal import CausalTask

Form = Literal["peft", "merged", "gguf-ready"]
DType = Literal["float32", "float16", "bfloat16"]

CONFIG_FILE = "adapter_config.json"
"""peft's name of an adapter's configuration."""
WORDS_FILE = "tokenizer.model"
"""A SentencePiece vocabulary, which converters prefer to what transformers makes of it."""


def export_results(
    results: Path,
    out: Path,
    *,
    form: Form = "peft",
    clients: Sequence[int] = (),
    base_name: str = "",
    dtype: DType | None = None,
    model: str = "",
) -> list[str]:
    """Write what clients end with to a new folder, a folder each; whole or not at all.

    Parameters
    ----------
    results : Path
        Results folder of a run, or the folder of one adapter.
    out : Path
        A new folder. In it are those of the clients: ``client-0``, …, or by the names of nodes.
    form : str
        ``peft``: adapters; ``merged``: plain models of transformers with adapter and head in them,
        and a tokenizer or image processor; ``gguf-ready``: the same of a causal language model, as
        converters to GGUF take it.
    clients : sequence of int
        Of these alone.
    base_name : str
        Name of the base model in adapters, as a server knows it; by default the saved one.
    dtype : str, optional
        Type of the tensors. By default that of saved adapters (float32), in models that of the
        run's weights, and float16 where they are made for GGUF.
    model : str
        Where the base model is, if not where the run had it.

    Returns
    -------
    list of str
        The names of the folders.

    Raises
    ------
    SettingsError
        The folder is there already, a form or an option does not fit, the base model is not there
        or another one, or numbers are beyond the range of the type.
    StorageError
        A client has no adapter there, or no single one, or it is damaged; or the disk is full.
    """
    if out.exists():
        raise SettingsError(f"{out} is there already; name a new folder")
    if base_name and form != "peft":
        raise SettingsError(
            f"a model of --format {form} has its base in it and names none: --base-name is for peft"
        )
    chosen = _chosen(results, clients)
    for saved in chosen.values():
        task = saved.settings.task.name
        if form == "gguf-ready" and not issubclass(TASKS[task], CausalTask):
            raise SettingsError(
                f"--format gguf-ready is for causal language models, which llama.cpp runs; "
                f"task.name={task} trains a classifier with a head: --format merged makes a plain "
                "model of transformers of it"
            )
    with whole_folder(out) as target:
        for name, saved in chosen.items():
            place = target / name
            place.mkdir()
            if form == "peft":
                _write_adapter(saved, place, base_name, dtype)
            else:
                usual = "float16" if form == "gguf-ready" else saved.settings.model.dtype
                _write_model(saved, place, dtype or usual, model)
    return list(chosen)


def _chosen(results: Path, clients: Sequence[int]) -> dict[str, SavedAdapter]:
    """Return the adapters of some clients, or of all, by the names of their new folders."""
    if not (results / "clients").is_dir():
        saved = read_saved(results)
        if clients:
            raise SettingsError(f"{results} holds one adapter: leave out --clients")
        return {_name_of(saved): saved}
    found = (results / "clients").iterdir()
    places = {int(place.name): place for place in found if place.name.isdecimal()}
    if not places:
        raise StorageError(f"there is no adapter of a client in {results}")
    there = ", ".join(map(str, sorted(places)))
    for client in clients:
        if client not in places:
            raise StorageError(f"there is no client {client} in {results}; it has {there}")
    chosen = {}
    for number in sorted(set(clients) or places):
        saved = read_saved(places[number])
        chosen[_name_of(saved)] = saved
    return chosen


def _name_of(saved: SavedAdapter) -> str:
    """Return the name of the folder that an adapter is exported to."""
    if saved.client is None:
        return saved.adapter
    names = dict(enumerate(saved.settings.federation.names))
    name = names.get(saved.client, "")
    return name if name and Path(name).name == name else f"client-{saved.client}"


def _write_adapter(saved: SavedAdapter, place: Path, base_name: str, dtype: DType | None) -> None:
    """Write an adapter, with its classes where it has a head, as peft loads it; of one rank."""
    config = json.loads((saved.folder / CONFIG_FILE).read_text())
    if base_name:
        config["base_model_name_or_path"] = base_name
    with safe_open(saved.folder / ADAPTER_FILE, "pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if config["rank_pattern"] or config["alpha_pattern"]:  # Servers know one rank and one alpha.
        even, told = read_peft_adapter(saved.folder).evened()
        tensors |= {name: even[name] for pair in lora_pairs(tensors) for name in pair}
        config |= told
    if dtype:
        tensors = _cast(tensors, dtype, saved.folder)
    (place / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (place / ADAPTER_FILE).write_bytes(save(tensors, metadata))
    if (saved.folder / CLASSES_FILE).is_file():
        shutil.copyfile(saved.folder / CLASSES_FILE, place / CLASSES_FILE)


def _cast(tensors: Mapping[str, Tensor], dtype: DType, folder: Path) -> dict[str, Tensor]:
    """Return tensors with their floats in a type.

    Raises
    ------
    SettingsError
        One is not finite in it.
    """
    kind = getattr(torch, dtype)
    cast = {
        name: tensor.to(kind) if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }
    for name, tensor in cast.items():
        if not tensor.isfinite().all():
            raise SettingsError(
                f"{name} of the model in {folder} has numbers beyond the range of {dtype}; choose "
                "--dtype bfloat16 or float32"
            )
    return cast


def _write_model(saved: SavedAdapter, place: Path, dtype: DType, model: str) -> None:
    """Write a base model with an adapter and its head in it, and what prepares its inputs."""
    # The sum is made in float32, whatever the type of the weights was and will be.
    memory = ModelSettings(device="cpu")
    task_settings = saved.settings.task
    if model:
        task_settings = task_settings.model_copy(update={"model": model})
    settings = saved.settings.model_copy(update={"model": memory, "task": task_settings})
    task = TASKS[settings.task.name](settings)
    merged = _merged(saved, settings)
    if task.classes:
        merged.config.id2label = dict(enumerate(task.classes))
        merged.config.label2id = {name: number for number, name in enumerate(task.classes)}
    _cast(merged.state_dict(), dtype, saved.folder)
    try:
        merged.to(getattr(torch, dtype)).save_pretrained(place)
    except ValueError as error:  # of what the base model brings, as options of generation
        raise SettingsError(
            f"task.model {settings.task.model!r} cannot be saved: {' '.join(str(error).split())}"
        ) from None
    prepares = task.processor()
    if prepares is not None:
        prepares.save_pretrained(place)
    words = cached_file(
        find_model(settings.task.model), WORDS_FILE,
        _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False,
    )  # fmt: skip
    if words and not (place / WORDS_FILE).exists():
        shutil.copyfile(words, place / WORDS_FILE)


def _merged(saved: SavedAdapter, settings: Settings) -> PreTrainedModel:
    """Return the base model with an adapter and its head in it."""
    try:
        load_config(settings.task.model)
        base = TASKS[settings.task.name](settings).load_base_model()
    except SettingsError as error:
        raise SettingsError(f"{error}; say where it is now: --model FOLDER") from None
    try:
        adapted = PeftModel.from_pretrained(base, str(saved.folder))  # type: ignore[arg-type]
        there = get_peft_model_state_dict(adapted)
    except (RuntimeError, ValueError) as error:
        first = str(error).strip().splitlines()[-1].strip()
        raise SettingsError(
            f"the base model does not fit the adapter in {saved.folder}: {first}"
        ) from None
    for name, tensor in saved.tensors.items():
        if name not in there or not torch.equal(there[name].cpu(), tensor):
            raise SettingsError(
                f"the base model does not fit the adapter in {saved.folder}: there is no {name} in "
                "it"
            )
    merged: PreTrainedModel = adapted.merge_and_unload()  # type: ignore[operator]
    return merged
