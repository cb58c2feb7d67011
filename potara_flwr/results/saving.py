"""The adapters of a run as folders that peft loads, each with a model card."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save

from potara_flwr.core.errors import SettingsError
from potara_flwr.core.storage import whole_folder
from potara_flwr.messages.reports import Report
from potara_flwr.methods import METHODS, Client, Outcome
from potara_flwr.models.adapter import Adapter, kind_of
from potara_flwr.models.lora import LoraModel, save_adapter
from potara_flwr.models.pretrained import find_model
from potara_flwr.results.model_card import code_section, metadata, task_type_of
from potara_flwr.results.run_file import FEDERATED, PERSONALIZED, write_run
from potara_flwr.settings.schema import Settings
from potara_flwr.tasks import TASKS

CLASSES_FILE = "classes.json"
"""In the folder of an adapter with a head: which class each of its outputs is, as ``id2label``."""


def save_client(folder: Path, client: Client, outcome: Outcome) -> None:
    """Write what a client ends with to ``folder``: the personalized adapter, others below it.

    Where the personalized model is no single adapter, ``folder`` holds the parts and a card. Next
    to each adapter stands ``run.json``, with all that its later use needs to know of the run.
    """
    number, model, settings = client.data.client, client.model, client.settings
    cards = {"": client_card(number, outcome, settings)}
    with whole_folder(folder) as target:
        for name, adapter in outcome.adapters.items():
            card = cards.get(name) or part_card(number, name, outcome.report)
            report = outcome.report
            accuracy = report.accuracy.get(name) if name else report.personalized.accuracy
            place, classes = folder / name, client.data.classes
            save_with_card(target / name, adapter, model, settings, place, card, classes, accuracy)
            write_run(target / name, settings, classes, name or PERSONALIZED, number)
        if "" not in outcome.adapters:
            (target / "README.md").write_text(cards[""])
        for name, tensors in outcome.tensors.items():
            (target / f"{name}.safetensors").write_bytes(save(dict(tensors)))


def save_federated(
    folder: Path,
    adapter: Adapter,
    model: LoraModel,
    settings: Settings,
    accuracy: float,
    classes: tuple[str, ...],
) -> str:
    """Write the federated adapter; ``accuracy`` is its mean over the clients' test samples,
    ``classes`` are those of the shared head, where there is one.

    Returns the SHA-256 of the adapter's file.
    """
    method = METHODS[settings.method]
    cut = ", each with the part that it trains" if settings.lora.ranks else ""
    card = f"""# Federated LoRA adapter

The average of the clients' adapters after {method.rounds(settings)} federated rounds of
{method.title}.

- mean test accuracy over clients{cut}: {accuracy:.4f}
"""
    with whole_folder(folder) as target:
        save_with_card(target, adapter, model, settings, folder, card, classes, accuracy)
        return write_run(target, settings, classes, FEDERATED)


def client_card(client: int, outcome: Outcome, settings: Settings) -> str:
    """Return the model card of what a client ends with."""
    method = METHODS[settings.method]
    source = f" (arXiv {method.source})" if method.source else ""
    report, own = outcome.report, outcome.report.personalized
    rows = [(name, report.accuracy[name], report.loss[name]) for name in method.adapters]
    scores = "\n".join(
        f"| {name} | {accuracy:.4f} | {loss:.4f} |"
        for name, accuracy, loss in [*rows, ("personalized", own.accuracy, own.loss)]
    )
    parts = ", ".join(name for name in [*outcome.adapters, *outcome.tensors] if name)
    more = f"- what it is made of, in this folder: {parts}\n" if parts else ""
    return f"""# Personalized LoRA adapter of client {client}

{method.title}{source}: {method.summary}

{more}{_merge_lines(report)}
| adapter | test accuracy | test loss |
|---|---|---|
{scores}
"""


def _merge_lines(report: Report, first: str = "federated", second: str = "local") -> str:
    """Return how two adapters were merged, the first of which has the weight λ."""
    own, found, traces = report.personalized, report.diagnosis, report.traces
    if found is None or traces is None:
        return ""
    notes = "".join(f"- {words}\n" for words in (own.reason, found.warning) if words)
    return f"""- merge: λ · {first} + (1 − λ) · {second}
- merge rule: {own.rule}
- λ, the weight on the {first} adapter: {own.weight:.4f}
- interval of λ from resampling (90 %): {found.low:.2f} to {found.high:.2f}; the evidence favours
  {found.favours}
{notes}- variance traces: {first} a = {traces.federated:.6g}, {second}
  b = {traces.local:.6g}, cross c = {traces.cross:.6g}
"""


def save_merge(
    target: Path, folder: Path, client: Client, adapter: Adapter, report: Report
) -> None:
    """Write the merge of two saved adapters, and its card, to ``target``, which will be
    ``folder``.
    """
    shown = {"first adapter": "federated", "second adapter": "local", "merge": ""}
    own = report.personalized
    rows = "\n".join(
        f"| {words} | {report.accuracy[name] if name else own.accuracy:.4f} "
        f"| {report.loss[name] if name else own.loss:.4f} |"
        for words, name in shown.items()
    )
    card = f"""# Merge of two LoRA adapters

λ · first + (1 − λ) · second, with a weight λ from samples of both adapters' task (arXiv
2602.18658).

{_merge_lines(report, "first", "second")}
| adapter | test accuracy | test loss |
|---|---|---|
{rows}
"""
    classes, settings = client.data.classes, client.settings
    save_with_card(target, adapter, client.model, settings, folder, card, classes, own.accuracy)
    write_run(target, settings, classes, PERSONALIZED)


def read_classes_file(folder: Path) -> tuple[str, ...]:
    """Return the classes, by name, of the adapter in a folder; none where it does not tell them.

    Raises
    ------
    SettingsError
        The file that tells them is damaged.
    """
    file = folder / CLASSES_FILE
    if not file.is_file():
        return ()
    try:
        told = json.loads(file.read_text(encoding="utf-8"))["id2label"]
        return tuple(told[str(at)] for at in range(len(told)))
    except (ValueError, KeyError, TypeError):
        raise SettingsError(f"{file} is damaged: it does not name the classes") from None


def part_card(client: int, name: str, report: Report) -> str:
    """Return the model card of an adapter that the personalized one is made of."""
    scored = (
        f"- test accuracy: {report.accuracy[name]:.4f}, test loss: {report.loss[name]:.4f}"
        if name in report.accuracy
        else ""
    )
    return f"""# {name.capitalize()} LoRA adapter of client {client}

{scored or "- a part of the client's personalized model"}
"""


def save_with_card(
    target: Path,
    adapter: Adapter,
    model: LoraModel,
    settings: Settings,
    folder: Path,
    card: str,
    classes: tuple[str, ...],
    accuracy: float | None = None,
) -> None:
    """Write adapter, classes and card to ``target``; the card tells how to load it from
    ``folder``.

    Parameters
    ----------
    accuracy : float, optional
        On test data, where it was scored.
    """
    if classes and any(kind_of(name) == "head" for name in adapter):
        text = json.dumps({"id2label": dict(enumerate(classes))}, indent=1, ensure_ascii=False)
        target.mkdir(parents=True, exist_ok=True)
        (target / CLASSES_FILE).write_text(text + "\n", encoding="utf-8")
    base = settings.task.model_name or find_model(settings.task.model)
    task = TASKS[settings.task.name](settings)
    task_type = task_type_of(adapter, task)
    save_adapter(target, adapter, model.config, base, model.buffers, task_type)
    task.padding_side = model.padding_side
    code = code_section(adapter, model, task, classes, str(folder))
    head = metadata(task, card.partition("\n")[0].removeprefix("# "), accuracy)
    text = f"---\n{head}\n---\n{card}\n{code}"
    (target / "README.md").write_text(text, encoding="utf-8")
