"""Merge any two LoRA adapters of one base model, on samples of one's own: no federation, no
training. The first takes the place of the federated adapter, the second that of the local one.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from potara_flwr.core.errors import SettingsError
from potara_flwr.core.stopwatch import Stopwatch
from potara_flwr.core.storage import whole_folder
from potara_flwr.data.labels import shortened, write_classes
from potara_flwr.merging.segment import segment_between
from potara_flwr.methods import METHODS, Client, Outcome
from potara_flwr.methods.potara import conclude, weigh
from potara_flwr.models.adapter import Adapter, kind_of, lora_pairs
from potara_flwr.models.lora import LoraModel
from potara_flwr.models.peft_adapter import PeftAdapter, read_peft_adapter
from potara_flwr.results.saving import read_classes_file, save_merge
from potara_flwr.run_config import from_flat
from potara_flwr.settings.groups import Value
from potara_flwr.settings.schema import Settings
from potara_flwr.tasks.base import num_samples
from potara_flwr.tasks.workbench import Workbench
from potara_flwr.training.local_steps import one_thread

logger = logging.getLogger(__name__)

REPORT = "report.json"
CURVE = "accuracy-along-weight.png"


def merge_saved(
    first: Path, second: Path, data: str, out: Path, settings: Settings, given: Sequence[str] = ()
) -> dict[str, Any]:
    """Merge two adapter folders of peft's by the evidence of some samples; write the merge, its
    model card, a report and the curve along λ to a new folder.

    Parameters
    ----------
    first, second : Path
        Folders with ``adapter_config.json`` and ``adapter_model.safetensors``. They may differ in
        layers, and in the ``delta`` space in rank.
    data : str
        A data file or folder. ``calibration.samples`` of its rows choose λ, and
        ``data.test-fraction`` of them score the merges.
    out : Path
        A new folder.
    settings : Settings
        Task, columns, rule and space.
    given : sequence of str
        Names of the settings that hold as they are, also where the adapters say otherwise.

    Returns
    -------
    dict
        The report, as an entry of ``clients`` in docs/reference/results.md; its ``federated`` is
        the first adapter and its ``local`` the second.

    Raises
    ------
    SettingsError
        A folder holds no adapter that can be merged, the two are of different bases, layers, heads
        or classes, or ``out`` is in use.
    EstimationError
        A trace or loss is not finite; names the adapter.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SettingsError(f"{out} is in use; name a new folder")
    adapters = read_peft_adapter(first), read_peft_adapter(second)
    settings = settled(adapters, data, settings, given)
    with one_thread():
        bench = Workbench(settings)
        client = METHODS["potara"].client(bench, bench.client(0))
        ranks = tuple(adapter.rank for adapter in adapters)
        ends = [fitted(adapter, client.model, settings) for adapter in adapters]
        segment = segment_between(ends[0], ends[1], settings.merge.space)
        clock = Stopwatch()
        outcome = conclude(client, segment, weigh(client, segment, clock), clock)
    report = {
        "first": str(first),
        "second": str(second),
        "num_calibration": num_samples(client.data.calibration),
        "num_test": num_samples(client.data.test),
        **outcome.report.to_json(),
    }
    merged = without_padding(outcome.adapters[""], ranks, settings.lora.rank)
    if not any(adapter.head for adapter in adapters):
        merged = {name: t for name, t in merged.items() if kind_of(name) != "head"}
    write(out, client, merged, outcome, report)
    return report


def settled(
    adapters: tuple[PeftAdapter, PeftAdapter],
    data: str,
    settings: Settings,
    given: Sequence[str],
) -> Settings:
    """Return the settings with what the adapters tell, where it is not given; check that the two
    can be merged.
    """
    first, second = adapters
    if "task.model" not in given and first.base_model != second.base_model:
        raise SettingsError(
            f"{first.folder} is of the base model {first.base_model!r}, {second.folder} of "
            f"{second.base_model!r}: if they are the same, name it (task.model=…)"
        )
    differ = [(rank, second.ranks.get(a, rank)) for a, rank in first.ranks.items()]
    differ = [ranks for ranks in differ if ranks[0] != ranks[1]]
    if (differ or first.rank != second.rank) and settings.merge.space == "factors":
        one, other = differ[0] if differ else (first.rank, second.rank)
        raise SettingsError(
            f"the ranks differ, {one} and {other}: factors of different shapes have no average; "
            "merge the updates instead (merge.space=delta)"
        )
    if bool(first.head) != bool(second.head):
        whose = (first if first.head else second).folder
        raise SettingsError(f"{whose} alone has a head; two adapters with one, or without, merge")
    known = [read_classes_file(adapter.folder) for adapter in adapters]
    if all(known) and known[0] != known[1]:
        lists = " and ".join(shortened(classes) for classes in known)
        raise SettingsError(f"the heads have different classes, or another order: {lists}")
    rank = max(first.rank, second.rank)
    scaling = next(iter(first.scaling.values()))
    layers = list(dict.fromkeys([*first.layers, *second.layers]))
    told: dict[str, Value] = {
        "task.model": first.base_model,
        "data.classes": write_classes(known[0] or known[1]),
        "calibration.source": "held-out",  # neither adapter was trained on them
        "lora.target-modules": ",".join(endings(layers)),
    }
    fixed: dict[str, Value] = {
        "method": "potara",
        "data.path": str(Path(data).expanduser().absolute()),
        "data.num-clients": 1,
        "data.partition": "whole",
        "lora.rank": rank,
        "lora.ranks": "",
        "lora.alpha": scaling * rank,
        "lora.rslora": False,
        "lora.rank-pattern": "",
        "lora.alpha-pattern": "",
    }
    if settings.task.name == "digits":
        raise SettingsError(
            "task.name=digits brings its own images; say what the data is, e.g. "
            "task.name=text-classification"
        )
    if not Path(data).expanduser().exists():
        raise SettingsError(f"there is no file or folder {data}")
    told = {name: value for name, value in told.items() if name not in given and value}
    return from_flat({**settings.to_flat(), **told, **fixed})


def endings(layers: Sequence[str]) -> list[str]:
    """Return the last parts of the names of layers, where every layer with such an end is one of
    them as far as their like tells, else their whole names.
    """
    short = list(dict.fromkeys(layer.rpartition(".")[2] for layer in layers))
    stems = {layer.rpartition(".")[0] for layer in layers}
    whole = all(f"{stem}.{end}" in layers for stem in stems for end in short)
    return short if whole else list(layers)


def fitted(adapter: PeftAdapter, model: LoraModel, settings: Settings) -> Adapter:
    """Bring an adapter to the layers, rank and scaling of a model; a head that it lacks is the
    base model's own.

    Raises
    ------
    SettingsError
        The base model has no such layer, or one of another shape.
    """
    initial = model.initial
    for name, tensor in adapter.tensors.items():
        kind, known = kind_of(name), initial.get(name)
        cut = {"A": slice(1, None), "B": slice(0, 1), "head": slice(None)}[kind]
        if known is None or known.shape[cut] != tensor.shape[cut]:
            raise SettingsError(
                f"{adapter.folder} does not fit the base model {settings.task.model}: there is no "
                f"{name} of the shape {tuple(tensor.shape)} in it"
            )
    wide = adapter.scaled(model.scaling).widened(initial, settings.lora.rank).tensors
    return {name: wide.get(name, tensor) for name, tensor in initial.items()}


def without_padding(merged: Adapter, ranks: tuple[int, ...], rank: int) -> Adapter:
    """Cut off the zeros that filled an adapter of a lower rank up to ``rank``."""
    pairs = lora_pairs(merged)
    first, second = ranks
    if merged[pairs[0][0]].shape[0] != 2 * rank:
        return merged
    kept = torch.cat([torch.arange(first), rank + torch.arange(second)])
    cut = dict(merged)
    for a, b in pairs:
        cut[a], cut[b] = merged[a][kept], merged[b][:, kept]
    return cut


def write(
    out: Path, client: Client, merged: Adapter, outcome: Outcome, report: dict[str, Any]
) -> None:
    """Write the merge, its card, the report and the curve along λ, all or nothing."""
    from potara_flwr.results.drawing import png_of
    from potara_flwr.results.figures import accuracy_of_merges

    with whole_folder(out) as target:
        save_merge(target, out, client, merged, outcome.report)
        (target / REPORT).write_text(json.dumps(report, indent=1) + "\n")
        if outcome.report.grid is not None:
            figure = accuracy_of_merges(report, client.settings.merge.rule)
            (target / CURVE).write_bytes(png_of(figure))
