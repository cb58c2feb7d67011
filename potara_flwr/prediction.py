"""Predictions of a saved adapter on rows of any data file: what the run would have said of them.

:func:`predict_rows` is all of it. Rows are prepared, and outputs read, by the task of the run, so
that the accuracy of these predictions is the one in the run's results.
"""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from potara_flwr.core.errors import SettingsError
from potara_flwr.data.clients import own_source
from potara_flwr.models.adapter import kind_of
from potara_flwr.models.lora import device_of
from potara_flwr.models.pretrained import load_config
from potara_flwr.models.runner import AdaptedModel
from potara_flwr.run_config import from_flat
from potara_flwr.saved import SavedAdapter, check_fits, read_saved
from potara_flwr.settings.groups import Value
from potara_flwr.settings.schema import Settings, flat
from potara_flwr.tasks.base import Prediction
from potara_flwr.tasks.classification import Classification
from potara_flwr.tasks.workbench import Workbench
from potara_flwr.training.local_steps import on_device

logger = logging.getLogger(__name__)

SUFFIXES = (".csv", ".jsonl")
"""Of files of predictions."""
MAY_CHANGE = (
    "task.model", "task.option-score", "task.max-new-tokens", "train.evaluation-batch-size",
)  # fmt: skip
"""Settings of the run, besides those of ``data`` and ``model``, that may be others here."""
ALL_ROWS: dict[str, Value] = {
    "data.name": "", "data.train-split": "train", "data.test-split": "", "data.split-column": "",
    "data.num-clients": 1, "data.partition": "whole", "data.partition-column": "",
    "federation.nodes": "",
}  # fmt: skip
"""Settings by which a data file is no share of a run's data."""


@torch.no_grad()
def predict_rows(
    folder: Path, data: str, changed: Mapping[str, Value] | None = None
) -> list[Prediction]:
    """Return what a saved adapter says of every row of a data file, in their order.

    Parameters
    ----------
    folder : Path
        Of the adapter: ``<results>/clients/<k>``, a folder below it, or ``<results>/federated``,
        or where one of them was copied to.
    data : str
        A data file, or anything that ``data.path`` takes. Labels need not be there.
    changed : mapping, optional
        Settings that are not as in the run, by name: where the base model is, columns, the device.

    Returns
    -------
    list of dict
        Of a classifier ``label`` and ``probabilities`` by class; of questions with options
        ``option``, its ``number``, and ``scores`` and ``probabilities`` of all; else ``answer``.

    Raises
    ------
    StorageError
        There is no adapter, it is damaged, or it has changed since the run.
    SettingsError
        The base model is not there or another one, the data cannot be read or lacks a column, a
        row cannot be used, or a setting cannot be changed.
    """
    saved = read_saved(folder)
    settings = _settings(saved, data, changed or {})
    bench = Workbench(settings)
    has_head = any(kind_of(name) == "head" for name in saved.tensors)
    if isinstance(bench.task, Classification) and not has_head:
        raise SettingsError(
            f"the adapter in {folder} has no head, which each client keeps to itself: name the "
            "folder of a client's adapter"
        )
    with _base_named():
        load_config(settings.task.model)
    inputs = bench.task.load_inputs()
    if inputs.cut:
        logger.warning(
            "%s: %d of %d rows are longer than data.max-tokens (%d): what is beyond is left out",
            data, inputs.cut, len(inputs.samples["labels"]), settings.data.max_tokens,
        )  # fmt: skip
    with _base_named():
        model = bench.model
    check_fits(saved.tensors, model, folder)
    device = device_of(model.module)
    adapted = AdaptedModel(model, on_device(model.initial | saved.tensors, device))
    size = settings.train.evaluation_batch_size
    return [row for part in inputs.parts(size, device) for row in bench.task.predict(adapted, part)]


def _settings(saved: SavedAdapter, data: str, changed: Mapping[str, Value]) -> Settings:
    """Return the run's settings, by which all rows of ``data`` are one client's."""
    for name in changed:
        group = name.partition(".")[0]
        if name == "data.classes" or not (group in ("data", "model") or name in MAY_CHANGE):
            raise SettingsError(
                f"{name} is the run's, and the adapter would be another with a new value; what may "
                f"be changed is {', '.join(MAY_CHANGE)}, model.* and data.* but data.classes"
            )
    own = saved.settings.data
    names = [name.strip() for name in own.datasets.split(",") if name.strip()]
    if saved.client is not None:
        if names:
            names = [names[saved.client % len(names)]]
        elif own.path:
            own = own_source(own, saved.client)[0]
    place = Path(data).expanduser()
    settings = from_flat(
        {
            **saved.settings.to_flat(),
            **flat({"data": own.model_dump(by_alias=True)}),
            **ALL_ROWS,
            "data.datasets": ",".join(names),
            "data.path": str(place.absolute()) if place.exists() else data,
            **changed,
        }
    )
    if "," in settings.data.datasets:
        raise SettingsError(
            f"the run has several data sets ({settings.data.datasets}); say of which one the rows "
            "are (data.datasets=NAME), or name their columns (data.datasets='' data.prompt-column=…"
            " data.options-column=…)"
        )
    return settings


@contextmanager
def _base_named() -> Iterator[None]:
    """Say with what is wrong with the base model which setting names another."""
    try:
        yield
    except SettingsError as error:
        if not str(error).startswith("task.model"):
            raise
        raise SettingsError(f"{error}; say where it is now: task.model=FOLDER") from None


def write_csv(rows: Sequence[Prediction]) -> str:
    """Return predictions as a csv: what has a value for each class has a column for each, and a
    list is written as json.
    """
    flattened = [_flattened(row) for row in rows]
    names = dict.fromkeys(name for row in flattened for name in row)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flattened)
    return text.getvalue()


def _flattened(row: Prediction) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            values |= {f"{name}.{key}": item for key, item in value.items()}
        else:
            values[name] = json.dumps(value) if isinstance(value, list) else value
    return values


def write_jsonl(rows: Sequence[Prediction]) -> str:
    """Return predictions as json, a line each."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
