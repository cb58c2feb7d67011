"""One architecture through a whole run, and what the code on the cards that are left gives."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
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
from potara_flwr.models.runner import AdaptedModel
from potara_flwr.run_config import from_flat
from potara_flwr.settings.schema import Settings
from potara_flwr.tasks.base import Inputs, take
from potara_flwr.tasks.workbench import workbench
from simulations.cards import CardScore, PlainModel, score_card
from simulations.zoo.material import write_data, write_processor, write_tokenizer
from simulations.zoo.tiny import END, PAD, tiny_config, tiny_model

Kind = Literal["image", "text", "causal"]
TASKS = {"image": "image-classification", "text": "text-classification", "causal": "instruction"}
NEAR = 1e-4
"""Of the largest logit: what rounding may change."""
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
    card: bool = False
    """Whether the code on the clients' cards was executed."""
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
            "data.max-tokens": 32,
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
        for entry in clients:
            folder = results / "clients" / str(entry["client"])
            card = score_card(folder, workbench(settings), entry["client"])
            _check_base(model, card.names["model"])
            _check_card(card, folder, settings, entry)
    except PotaraError as error:
        journey.outcome = "fails" if grid.trained else "refused"
        journey.words = _line(error)
    except Exception as error:  # noqa: BLE001 — the journey ends here, and says how
        journey.outcome, journey.words = "fails", _line(error)
    else:
        journey.outcome, journey.card = "works", True
        journey.gradients = clients[0]["gradients"]
        journey.targets = sorted(
            {
                parameter.split(".lora_")[0].rpartition(".")[2]
                for name, parameter in model.parameters.items()
                if kind_of(name) != "head"
            }
        )
        journey.head = model.head_modules


def _check_base(model: LoraModel, loaded: PeftModel) -> None:
    """Check that no parameter and no buffer of the base model differs from the file's.

    Raises
    ------
    RuntimeError
        One does.
    """
    plain = loaded.state_dict()
    for name, tensor in model.module.state_dict().items():
        own = ".lora_" in name or ".modules_to_save." in name
        if not own and not torch.equal(plain[name], tensor):
            raise RuntimeError(f"the base model has changed: {name}")


def _check_card(
    card: CardScore, folder: Path, settings: Settings, entry: Mapping[str, Any]
) -> None:
    """Check that a client's card gives what the run's model says, and the numbers of its results.

    Raises
    ------
    RuntimeError
        It does not.
    """
    bench = workbench(settings)
    adapter = load_adapter(folder)
    adapted = AdaptedModel(bench.model, adapter)
    test = take(bench.client(entry["client"]).test, slice(None))
    batch = bench.task.collate(test)
    with torch.no_grad():
        expected = adapted(batch)
        plain = bench.model({name: _without_update(name, adapter[name]) for name in adapter}, batch)
        if KEPT in batch:
            found = PlainModel(card.names["model"])(batch)
            real = batch["attention_mask"][:, -expected.shape[1] :, None] > 0
            expected, plain = (torch.where(real, at, 0.0) for at in (expected, plain))
        else:  # samples are in order of their lengths, those of the card are not
            expected, plain, found = (
                at.sort(dim=0).values for at in (expected, plain, card.names["logits"])
            )
        if not (far := _distance(found, expected)) <= NEAR:
            raise RuntimeError(f"the card gives other logits, by up to {far:.2g} of the largest")
        if not _distance(plain, expected) > NEAR:
            raise RuntimeError("the adapter changes too little for its card to be checked")
        if KEPT in batch:
            said = bench.task.predict(adapted, Inputs(test, [()] * len(expected)))
            if sorted(one["answer"] for one in said) != sorted(card.names["answers"]):
                raise RuntimeError("the card writes other answers")
    for what, gives in (("accuracy", card.accuracy), ("loss", card.loss)):
        told = entry["personalized"][what]
        if not abs(gives - told) <= NEAR * max(1.0, told):
            raise RuntimeError(f"the card gives {what} {gives:.5f}, results say {told:.5f}")


def _without_update(name: str, tensor: Tensor) -> Tensor:
    """Return a tensor of an adapter whose factors B are 0."""
    return torch.zeros_like(tensor) if kind_of(name) == "B" else tensor


def _distance(found: Tensor, expected: Tensor) -> float:
    """Return how far logits are apart at most, as a fraction of the largest."""
    return ((found - expected).abs().max() / expected.abs().max()).item()


def _line(error: Exception) -> str:
    """Return an error in one line, with its kind where it is none of the project's."""
    kind = "" if isinstance(error, PotaraError) else f"{type(error).__name__}: "
    return (kind + " ".join(str(error).split()))[:300]
