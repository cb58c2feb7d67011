"""The adapters of a run as folders that peft loads, each with a model card."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from potara_flwr.adapters import Adapter, LoraModel, kind_of, save_adapter
from potara_flwr.base_models import find_model
from potara_flwr.config import Settings
from potara_flwr.personalization import Personalization
from potara_flwr.tasks import TASKS


def save_client(
    folder: Path, client: int, outcome: Personalization, model: LoraModel, settings: Settings
) -> None:
    """Write a client's personalized adapter to ``folder`` and its local one to ``folder/local``."""
    with replacing(folder) as target:
        _save(target, outcome.personalized, model, settings, folder, client_card(client, outcome))
        _save(target / "local", outcome.local, model, settings, folder / "local",
              local_card(client, outcome))  # fmt: skip


def save_federated(
    folder: Path, adapter: Adapter, model: LoraModel, settings: Settings, accuracy: float
) -> None:
    """Write the federated adapter; ``accuracy`` is its mean over the clients' test samples."""
    card = f"""# Federated LoRA adapter

The average of the clients' adapters after {settings.federation.rounds} federated rounds: the
general half of every personalized adapter.

- mean test accuracy over clients: {accuracy:.4f}
"""
    with replacing(folder) as target:
        _save(target, adapter, model, settings, folder, card)


def client_card(client: int, outcome: Personalization) -> str:
    """Return the model card of a personalized adapter."""
    scores = "\n".join(
        f"| {name} | {score.accuracy:.4f} | {score.loss:.4f} |"
        for name, score in outcome.scores.items()
        if name in ("initial", "federated", "local", "personalized")
    )
    found = outcome.diagnosis
    notes = "".join(f"- {words}\n" for words in (outcome.reason, found.warning) if words)
    return f"""# Personalized LoRA adapter of client {client}

The merge λ · federated + (1 − λ) · local of this client's two adapters (Potara, arXiv 2602.18658).

- merge rule: {outcome.rule}
- λ, the weight on the federated adapter: {outcome.weight:.4f}
- interval of λ from resampling (90 %): {found.low:.2f} to {found.high:.2f}; the evidence favours
  {found.favours}
{notes}- variance traces: federated a = {outcome.traces["federated"]:.6g}, local
  b = {outcome.traces["local"]:.6g}, cross c = {outcome.traces["cross"]:.6g}

| adapter | test accuracy | test loss |
|---|---|---|
{scores}
"""


def local_card(client: int, outcome: Personalization) -> str:
    """Return the model card of a local adapter."""
    score = outcome.scores["local"]
    return f"""# Local LoRA adapter of client {client}

Trained by the client alone, on its own samples.

- test accuracy: {score.accuracy:.4f}, test loss: {score.loss:.4f}
"""


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Give a temporary folder that takes the place of ``folder`` once it is complete."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield temporary
        if folder.exists():
            shutil.rmtree(folder)
        temporary.chmod(0o755)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _save(
    target: Path, adapter: Adapter, model: LoraModel, settings: Settings, folder: Path, card: str
) -> None:
    """Write adapter and card to ``target``; the card tells how to load it from ``folder``."""
    base = find_model(settings.task.model)
    auto_class = TASKS[settings.task.name].auto_class
    save_adapter(target, adapter, model.config, base)
    (target / "README.md").write_text(
        f"""---
library_name: peft
tags: [lora, federated-learning]
---
{card}
## How to load it

Base model: `{settings.task.model}`, at `{base}`.

```python
from peft import PeftModel
from transformers import {auto_class}

base = {auto_class}.from_pretrained({base!r}{_head_options(adapter)})
model = PeftModel.from_pretrained(base, {str(folder)!r})
```
"""
    )


def _head_options(adapter: Adapter) -> str:
    """Return the options that load the base model with a head of the adapter's classes."""
    head = [tensor for name, tensor in adapter.items() if kind_of(name) == "head"]
    return f", num_labels={len(head[-1])}, ignore_mismatched_sizes=True" if head else ""
