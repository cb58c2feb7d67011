"""Before round 1: once, on a sample or two, all that a client will do later. Nothing is changed by
it: what cannot be done is found before anybody has trained.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from potara_flwr.core.errors import PotaraError, SettingsError, StorageError
from potara_flwr.core.storage import writing
from potara_flwr.methods import METHODS
from potara_flwr.models.adapter import Adapter, kind_of, lora_pairs
from potara_flwr.models.lora import LoraModel, device_of, load_adapter
from potara_flwr.results.saving import save_with_card
from potara_flwr.settings.schema import Settings
from potara_flwr.tasks.base import ClientData, Samples, num_samples, take
from potara_flwr.tasks.workbench import Workbench
from potara_flwr.training.gradients import per_sample_gradients
from potara_flwr.training.local_steps import evaluate, on_device, train

FAULTS = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, RuntimeError,
    TypeError, ValueError,
)  # fmt: skip
"""What a model raises that does not take what it is handed."""
OTHER_TYPE = re.compile(r"BFloat16|Half|dtype|scalar type")
"""In what torch says of tensors whose types do not go together."""


def preflight(bench: Workbench, data: ClientData, folder: Path | None = None) -> None:
    """Load the model; take one optimizer step on one sample; compute the gradient of another; score
    the shortest and the longest test sample in one batch; compare a sample's logits with those of
    another adapter; write the adapter and read it back.

    The model, the initial adapter and the global random generators stay as they are, and so do the
    numbers of the run.

    Parameters
    ----------
    folder : Path, optional
        Where the adapter is written for a moment; by default the one for temporary files.

    Raises
    ------
    SettingsError
        The model cannot be loaded, trained or saved; says with which client's data, why, and what
        to do.
    StorageError
        The adapter cannot be written to ``folder``.
    """
    settings, task = bench.settings, bench.task
    who = f"client {data.client}, before round 1"
    with _tried(bench, who, "be loaded"):
        model = bench.model_for(data)
    METHODS[settings.method].check(model)
    before = _buffers(model)
    with _tried(bench, who, "take an optimizer step"):
        adapter, _ = train(
            model, task, model.initial, _longest(data.train), settings.train,
            steps=1, seed=settings.seed, who=who,
        )  # fmt: skip
    with _tried(bench, who, "give the gradient of a sample"):
        per_sample_gradients(model, task, adapter, _longest(data.calibration))
    with _tried(bench, who, "score a padded batch"):
        evaluate(model, task, adapter, _shortest_and_longest(data.test))
        _check_reached(bench, who, model, adapter, _longest(data.test))
    _check_unchanged(bench, who, before, _buffers(model))
    with _tried(bench, who, "be saved"):
        _write_and_read(bench, model, adapter, data, folder)


@contextmanager
def _tried(bench: Workbench, who: str, what: str) -> Iterator[None]:
    """Say in one line what a model cannot do."""
    name = bench.settings.task.model
    try:
        yield
    except (SettingsError, StorageError):
        raise
    except PotaraError as error:
        raise SettingsError(str(error)) from error
    except FAULTS as error:
        reason = " ".join(str(error).split()) or "no reason given"
        raise SettingsError(
            f"{who}: task.model {name!r} cannot {what} ({type(error).__name__}: {reason[:300]}); "
            f"{_cure(error, bench.settings)}"
        ) from error


def _cure(error: Exception, settings: Settings) -> str:
    if isinstance(error, torch.OutOfMemoryError):
        return (
            "set model.gradient-checkpointing=true or model.dtype=bfloat16, or lower "
            "data.max-tokens"
        )
    if settings.model.dtype != "float32" and OTHER_TYPE.search(str(error)):
        return "its layers do not all compute with these weights; set model.dtype=float32"
    if settings.data.image_size:
        return "leave out data.image-size: not every model takes images of another size"
    if isinstance(error, AttributeError):
        return "name other modules in lora.target-modules, or choose another model"
    return "mend its folder (config.json, tokenizer, image processor) or choose another model"


def _longest(samples: Samples) -> Samples:
    """Return the last sample: those with a length are sorted by it."""
    return take(samples, slice(-1, None))


def _shortest_and_longest(samples: Samples) -> Samples:
    return take(samples, torch.tensor(sorted({0, num_samples(samples) - 1})))


def _buffers(model: LoraModel) -> dict[str, Tensor]:
    """Return copies of the buffers that are saved with the base model."""
    saved = model.module.state_dict().keys()
    return {
        name: buffer.detach().cpu().clone()
        for name, buffer in model.module.named_buffers()
        if name in saved
    }


def _check_unchanged(
    bench: Workbench, who: str, before: dict[str, Tensor], after: dict[str, Tensor]
) -> None:
    """Check that training counts nothing in the base model, which no adapter would hold."""
    for name, buffer in before.items():
        if not torch.equal(buffer.nan_to_num(), after[name].nan_to_num()):
            raise SettingsError(
                f"{who}: task.model {bench.settings.task.model!r} changes {name} in training, "
                "which is no part of an adapter; choose another model"
            )


@torch.no_grad()
def _check_reached(
    bench: Workbench, who: str, model: LoraModel, adapter: Adapter, samples: Samples
) -> None:
    """Check that what an adapter adds to its layers reaches the logits. MRA's attention, for one,
    is all zeros where its kernel for a GPU lacks: the head alone would be trained.
    """
    device = device_of(model.module)
    batch = bench.task.collate(take(samples, slice(None), device))
    other = {
        name: torch.ones_like(at) if kind_of(name) == "B" else at for name, at in adapter.items()
    }
    logits, others = (model(on_device(one, device), batch) for one in (adapter, other))
    if torch.equal(logits, others):
        layers = {name.split(".lora_A")[0].rpartition(".")[2] for name, _ in lora_pairs(adapter)}
        where = f"{', '.join(sorted(layers))} of task.model {bench.settings.task.model!r}"
        raise SettingsError(
            f"{who}: what an adapter adds to {where} does not reach its output; name other "
            "modules in lora.target-modules, e.g. all-linear"
        )


def _write_and_read(
    bench: Workbench, model: LoraModel, adapter: Adapter, data: ClientData, folder: Path | None
) -> None:
    with (
        writing(folder or Path(tempfile.gettempdir())),
        tempfile.TemporaryDirectory(prefix="preflight-", dir=folder) as place,
    ):
        target = Path(place)
        save_with_card(target, adapter, model, bench.settings, target, "", data.classes)
        found = load_adapter(target)
    if found.keys() != adapter.keys() or any(
        not torch.equal(tensor, found[name]) for name, tensor in adapter.items()
    ):
        raise ValueError("what is read is not what was written")
