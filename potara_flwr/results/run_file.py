"""``run.json``: what the folder of an adapter says of the run that it is from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from potara_flwr.core.storage import file_hash
from potara_flwr.settings.schema import Settings

ADAPTER_FILE = "adapter_model.safetensors"
"""peft's name of an adapter's tensors."""
RUN_FILE = "run.json"
"""Next to an adapter: settings and classes of its run, whose adapter it is, and its SHA-256."""
FEDERATED, PERSONALIZED = "federated", "personalized"
"""What ``run.json`` calls the adapter of all clients, and what a client ends with."""


def write_run(
    folder: Path,
    settings: Settings,
    classes: Sequence[str],
    adapter: str,
    client: int | None = None,
) -> str:
    """Write ``run.json`` next to an adapter that is saved already.

    Parameters
    ----------
    classes : sequence of str
        By name, in the order of their numbers; empty where labels are no classes.
    adapter : str
        Which of the run's adapters it is: ``federated``, ``personalized``, or one of the parts of
        what a client ends with.
    client : int, optional
        Whose it is.

    Returns
    -------
    str
        The SHA-256 of the adapter's file.
    """
    sha256 = file_hash(folder / ADAPTER_FILE)
    run = {
        "sha256": sha256,
        "adapter": adapter,
        "client": client,
        "classes": classes,
        "config": settings.computed(),
    }
    (folder / RUN_FILE).write_text(json.dumps(run, indent=1) + "\n")
    return sha256
