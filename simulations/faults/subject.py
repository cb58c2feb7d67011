"""The run that things are done to: small, with every adapter of its end to compare."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from potara_flwr.run_config import from_flat
from potara_flwr.settings.groups import Value
from potara_flwr.settings.schema import Settings

ROUNDS = 2
NAMES = ("node-0", "node-1")
STAGES = ROUNDS + 1
"""The rounds and the personalization."""

SHORT: dict[str, Value] = {
    "data.num-clients": len(NAMES),
    "data.train-samples": 20,
    "data.test-fraction": 0.1,
    "lora.rank": 2,
    "train.batch-size": 8,
    "train.local-steps": 2,
    "local.steps": 4,
    "calibration.samples": 6,
    "federation.rounds": ROUNDS,
    "federation.fraction-evaluate": 0.0,
    "federation.timeout": 45.0,
    "federation.connect-timeout": 150.0,
}


def settings_of(overrides: Mapping[str, Value]) -> Settings:
    """Return the settings of a short run of the embedded default, with others in their place."""
    return from_flat(SHORT | dict(overrides))


def adapters_of(results: Path, clients: Mapping[int, Path]) -> dict[str, bytes]:
    """Return the bytes of every adapter that a run has ended with.

    Parameters
    ----------
    results : Path
        The results folder; has the federated one.
    clients : mapping
        Client → the folder of what it ended with.
    """
    folders = {"federated": results / "federated"}
    folders |= {f"client {client}": folder for client, folder in clients.items()}
    return {
        f"{whose}: {file.relative_to(folder)}": file.read_bytes()
        for whose, folder in folders.items()
        for file in sorted(folder.rglob("adapter_model.safetensors"))
    }


def adapters_here(results: Path) -> dict[str, bytes]:
    """Return the same of a run whose clients share a disk with the server."""
    clients = {client: results / "clients" / str(client) for client in range(len(NAMES))}
    return adapters_of(results, clients)
