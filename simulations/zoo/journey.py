"""One architecture through a whole run, and what plain peft makes of the adapter that is left."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from flwr.app import Message
from peft import PeftModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from potara_flwr.core.errors import PotaraError
from potara_flwr.in_process import InProcessGrid, run_in_process
from potara_flwr.models.adapter import kind_of
from potara_flwr.models.lora import KEPT, LoraModel, load_adapter
from potara_flwr.run_config import from_flat
from potara_flwr.settings.schema import Settings
from potara_flwr.tasks.base import Batch, take
from potara_flwr.tasks.workbench import workbench
from simulations.zoo.material import write_data, write_processor, write_tokenizer
from simulations.zoo.tiny import END, PAD, tiny_config, tiny_model

Kind = Literal["image", "text", "causal"]
AUTO_CLASSES = {
    "image": "AutoModelForImageClassification",
    "text": "AutoModelForSequenceClassification",
    "causal": "AutoModelForCausalLM",
}
TASKS = {"image": "image-classification", "text": "text-classification", "causal": "instruction"}
Outcome = Literal["works", "refused", "fails", "not built"]
"""``refused``: in one line before any training; ``not built``: there is no tiny model of it here,
e.g. for want of a library."""


@dataclass
class Journey:
    """How far an architecture came."""

    kind: Kind
    model_type: str
    class_name: str
    outcome: Outcome
    words: str = ""
    """Why, where it does not work."""
    targets: list[str] = field(default_factory=list)
    """Modules with an adapter, by the ends of their names."""
    head: list[str] = field(default_factory=list)
    gradients: str = ""
    """``batched`` or ``one at a time``."""
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return it as it is stored."""
        return asdict(self)


class _WatchedGrid(InProcessGrid):
    """Knows whether anybody was asked to train."""

    trained = False

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        messages = list(messages)
        self.trained |= any(one.metadata.message_type.startswith("train") for one in messages)
        return super().push_messages(messages)


def walk(kind: Kind, model_type: str, class_name: str, folder: Path) -> Journey:
    """Take an architecture through two rounds, local training, gradient passes, merge and saving,
    and check what is left.

    Parameters
    ----------
    folder : Path
        Emptied, and left with model, data and results.
    """
    began = time.perf_counter()
    journey = Journey(kind, model_type, class_name, "not built")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    own = {"is_decoder": True, "causal": True} if kind == "causal" else {"num_labels": 2}
    try:
        made = tiny_model(class_name, model_type, **own)
        if kind != "image":
            _try_plain(made)
        made.save_pretrained(folder / "model")
        if kind == "causal" and made.config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
            # The language model of several modalities is loaded by the configuration of them all.
            tiny_config(model_type).save_pretrained(folder / "model")
    except ImportError:  # there is no such model without a library: what does a run say?
        tiny_config(model_type).save_pretrained(folder / "model")
        save_file({}, folder / "model" / "model.safetensors", {"format": "pt"})
    except Exception as error:  # noqa: BLE001 — whatever transformers or a configuration raises
        journey.words = _line(error)
        return journey
    if kind == "image":
        write_processor(folder / "model", model_type)
    elif not write_tokenizer(folder / "model"):
        journey.words = "the tokenizers of this type do not read the zoo's"
        return journey
    _run(journey, settings_for(kind, folder))
    journey.words = journey.words.replace(f"{folder}/", "")
    journey.seconds = round(time.perf_counter() - began, 1)
    return journey


@torch.no_grad()
def _try_plain(model: PreTrainedModel) -> None:
    """Run a tiny model of texts without anything of the project, or raise what transformers does:
    not every configuration with its sizes shrunk makes a model that runs.
    """
    model.config.pad_token_id = PAD
    ids = torch.tensor([[5, 6, 7, 8, END], [5, 6, END, PAD, PAD]])
    model(input_ids=ids, attention_mask=(ids != PAD).long())


def settings_for(kind: Kind, folder: Path) -> Settings:
    """Return the settings of the run of a model in ``folder``."""
    data = write_data(folder / "data", kind)
    return from_flat(
        {
            "task.name": TASKS[kind],
            "task.model": str(folder / "model"),
            "task.max-new-tokens": 2,
            "data.path": str(data),
            "data.num-clients": 2,
            "data.partition": "iid",
            "data.max-tokens": 16,
            "federation.rounds": 2,
            "lora.rank": 2,
            "train.local-steps": 2,
            "train.batch-size": 4,
            "local.steps": 2,
            "calibration.samples": 4,
            "merge.compare": False,
            "run.report": False,
            "run.results": str(folder / "results"),
        }
    )


def _run(journey: Journey, settings: Settings) -> None:
    grid = _WatchedGrid(settings)
    try:
        results = run_in_process(settings, grid)
        stored = json.loads((results / "results.json").read_text())
        clients = stored["clients"]
        if len(clients) < settings.data.num_clients:
            raise RuntimeError(next(one["reason"] for one in stored["refused"]))
        model = workbench(settings).model
        _check_base(model, journey.kind, settings)
        _check_adapters(model, journey.kind, settings, results, clients)
    except PotaraError as error:
        journey.outcome = "fails" if grid.trained else "refused"
        journey.words = _line(error)
    except Exception as error:  # noqa: BLE001 — the journey ends here, and says how
        journey.outcome, journey.words = "fails", _line(error)
    else:
        journey.outcome = "works"
        journey.gradients = clients[0]["gradients"]
        journey.targets = sorted(
            {
                parameter.split(".lora_")[0].rpartition(".")[2]
                for name, parameter in model.parameters.items()
                if kind_of(name) != "head"
            }
        )
        journey.head = model.head_modules


def _check_base(model: LoraModel, kind: Kind, settings: Settings) -> None:
    """Check that no parameter and no buffer of the base model differs from the file's.

    Raises
    ------
    RuntimeError
        One does.
    """
    plain = _plain(kind, settings).state_dict()
    head = tuple(f"{name}." for name in model.head_modules)
    for name, tensor in model.module.state_dict().items():
        if ".lora_" in name or ".modules_to_save." in name:
            continue
        own = name.removeprefix("base_model.model.").replace(".base_layer", "")
        own = own.replace(".original_module", "")
        if not own.startswith(head) and not torch.equal(plain[own], tensor):
            raise RuntimeError(f"the base model has changed: {own}")


def _plain(kind: Kind, settings: Settings) -> PreTrainedModel:
    """Return the base model as a user loads it."""
    options = {} if kind == "causal" else {"num_labels": 2, "ignore_mismatched_sizes": True}
    auto_class = getattr(transformers, AUTO_CLASSES[kind])
    base: PreTrainedModel = auto_class.from_pretrained(settings.task.model, **options)
    if kind == "text":
        base.config.pad_token_id = base.config.get_text_config(decoder=True).pad_token_id = PAD
    return base


def _check_adapters(
    model: LoraModel, kind: Kind, settings: Settings, results: Path, clients: list[dict[str, Any]]
) -> None:
    """Check that plain peft gives the logits of the run, and the loss of its results.

    Raises
    ------
    RuntimeError
        It does not.
    """
    bench = workbench(settings)
    for entry in clients:
        folder = results / "clients" / str(entry["client"])
        loaded = PeftModel.from_pretrained(_plain(kind, settings), str(folder)).eval()
        batch = bench.task.collate(take(bench.client(entry["client"]).test, slice(None)))
        with torch.no_grad():
            expected = model(load_adapter(folder), batch)
            logits = _alone(loaded, batch) if kind == "causal" else _together(loaded, batch)
            loss = bench.task.losses(logits, batch).mean().item()
        if kind == "causal":  # on padding, nothing is meant
            real = batch["attention_mask"][:, -expected.shape[1] :, None] > 0
            expected = torch.where(real, expected, 0.0)
        if not torch.allclose(logits, expected, rtol=1e-3, atol=1e-4):
            far = (logits - expected).abs().max().item()
            raise RuntimeError(f"plain peft gives other logits, by up to {far:.2g}")
        told = entry["personalized"]["loss"]
        if abs(loss - told) > 1e-3 * max(1.0, told):
            raise RuntimeError(f"plain peft gives a loss of {loss:.5f}, results say {told:.5f}")


def _together(loaded: PeftModel, batch: Batch) -> Tensor:
    """Return the logits of a batch, as it is."""
    outputs = loaded(**{name: at for name, at in batch.items() if not name.startswith("labels")})
    logits: Tensor = outputs.logits if "logits" in outputs else outputs.last_hidden_state
    return logits


def _alone(loaded: PeftModel, batch: Batch) -> Tensor:
    """Return the logits of the last columns of a batch of texts, each of which the model sees
    alone and without padding, where there are 0.
    """
    kept = int(batch[KEPT])
    rows = []
    for ids, mask in zip(batch["input_ids"], batch["attention_mask"] > 0, strict=True):
        found = loaded(input_ids=ids[mask][None]).logits[0]
        row = found.new_zeros(len(ids), found.shape[-1])
        row[mask] = found
        rows.append(row[-kept:])
    return torch.stack(rows)


def _line(error: Exception) -> str:
    """Return an error in one line, with its kind where it is none of the project's."""
    kind = "" if isinstance(error, PotaraError) else f"{type(error).__name__}: "
    return (kind + " ".join(str(error).split()))[:300]
