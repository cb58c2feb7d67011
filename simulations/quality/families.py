"""The adapters that the merge-quality benchmark merges: trained once, kept on disk.

A family is one federation at one seed: its federated adapter after few and after many rounds, and
for each of them every client's local adapter, cold and warm. Cold local training does not depend on
the rounds, and few rounds are the first of many, so all of a family is trained in one go, by the
same functions and seeds as the apps (a test holds both to the same bits).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from potara_flwr.adapters import Adapter
from potara_flwr.config import Settings, Value, from_flat
from potara_flwr.personalization import train_local
from potara_flwr.seeds import derive_seed
from potara_flwr.strategies.lora_averaging import weighted_average
from potara_flwr.tasks.base import ClientData, num_samples
from potara_flwr.training import one_thread, train
from potara_flwr.workbench import Workbench

STARTS = ("cold", "warm")


@dataclass(frozen=True)
class Family:
    """One federation at one seed, and when its federated adapter is taken."""

    group: str
    """``shared``, ``conflicting``, ``sentiment``, ``one-class`` or ``one-client``."""
    seed: int
    rounds: tuple[int, ...]
    """Ascending; the last one ends the federation."""
    overrides: tuple[tuple[str, Value], ...]
    tuned: bool
    """Whether fine-tuning on all samples, the calibration samples among them, is a baseline."""

    def settings(self, start: str = "warm", rounds: int | None = None) -> Settings:
        """Return the settings of one run of the family."""
        return from_flat(
            {
                "seed": self.seed,
                "federation.rounds": rounds or self.rounds[-1],
                "local.start": start,
                **dict(self.overrides),
            }
        )

    @property
    def name(self) -> str:
        """Name of the family's folder."""
        samples = [f"n{value}" for key, value in self.overrides if key == "data.train-samples"]
        return "-".join([self.group, *samples, f"seed{self.seed}"])


def digit_families(seeds: int) -> Iterator[Family]:
    """Yield the embedded default in both shifts with 40, 100 and all (about 195) samples."""
    for seed in range(seeds):
        for shift in ("shared", "conflicting"):
            for samples in (40, 100, 0):
                overrides = (("data.shift", shift), ("data.train-samples", samples))
                yield Family(shift, seed, (5, 20), overrides, tuned=samples == 100)


def edge_families(seeds: int) -> Iterator[Family]:
    """Yield federations at the edge: clients with one or two classes, and one client alone."""
    for seed in range(seeds):
        skewed = (("data.shift", "shared"), ("data.alpha", 1e-3), ("data.num-clients", 6))
        yield Family("one-class", seed, (20,), skewed, tuned=False)
        alone = (("data.num-clients", 1), ("data.alpha", 100.0))
        yield Family("one-client", seed, (20,), alone, tuned=False)


def sentiment_families(seeds: int, data: Path, model: Path) -> Iterator[Family]:
    """Yield twelve clients of four domains, three a domain, on a pretrained text encoder."""
    for seed in range(seeds):
        overrides: dict[str, Value] = {
            "task.name": "text-classification",
            "task.model": str(model),
            "data.path": str(data),
            "data.split-column": "split",
            "data.domain-column": "domain",
            "data.num-clients": 12,
            "data.test-samples": 150,
            "lora.rank": 8,
            "lora.alpha": 16.0,
            "lora.target-modules": "query,value",
            "train.batch-size": 8,
            "train.learning-rate": 2e-3,
            "train.local-steps": 4,
            "local.steps": 60,
        }
        yield Family("sentiment", seed, (15,), tuple(overrides.items()), tuned=True)


class Adapters:
    """A family's adapters, by what they are."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self._tensors = tensors

    def federated(self, rounds: int) -> Adapter:
        """Return the federated adapter after ``rounds`` rounds."""
        return self._part(f"federated-{rounds}/")

    def local(self, start: str, rounds: int, client: int) -> Adapter:
        """Return a client's local adapter."""
        return self._part(f"{start}-{rounds}/{client}/")

    def tuned(self, rounds: int, client: int) -> Adapter | None:
        """Return the federated adapter fine-tuned on all samples of a client, where there is."""
        return self._part(f"tuned-{rounds}/{client}/") or None

    def _part(self, prefix: str) -> Adapter:
        return {
            name.removeprefix(prefix): tensor
            for name, tensor in self._tensors.items()
            if name.startswith(prefix)
        }


def train_family(family: Family, folder: Path) -> Adapters:
    """Return a family's adapters; those that are in ``folder`` are not trained again.

    Raises
    ------
    SystemExit
        The folder holds adapters that were trained with other settings.
    """
    file, about = folder / "adapters.safetensors", folder / "settings.json"
    settings = family.settings()
    # What happens after local training changes no adapter.
    decisive = settings.computed() | {"merge": None, "rounds": list(family.rounds)}
    if file.is_file():
        if json.loads(about.read_text()) != decisive:
            raise SystemExit(f"error: {folder} was made with other settings; remove it")
        return Adapters(load_file(file))
    with one_thread():
        tensors = _train(family, Workbench(settings))
    folder.mkdir(parents=True, exist_ok=True)
    about.write_text(json.dumps(decisive, indent=1) + "\n")
    temporary = file.with_suffix(".tmp")
    save_file(tensors, temporary)
    os.replace(temporary, file)
    return Adapters(tensors)


def _train(family: Family, bench: Workbench) -> dict[str, torch.Tensor]:
    settings = bench.settings
    clients = [bench.client(client) for client in range(settings.data.num_clients)]
    tensors: dict[str, torch.Tensor] = {}

    def keep(prefix: str, adapter: Adapter) -> None:
        tensors.update({f"{prefix}/{name}": tensor.clone() for name, tensor in adapter.items()})

    cold = [
        train_local(bench.model, bench.task, data, bench.model.initial, family.settings("cold"))
        for data in clients
    ]
    for rounds, federated in federated_adapters(bench, clients, family.rounds):
        keep(f"federated-{rounds}", federated)
        for client, data in enumerate(clients):
            keep(f"cold-{rounds}/{client}", cold[client])
            warm = train_local(bench.model, bench.task, data, federated, settings)
            keep(f"warm-{rounds}/{client}", warm)
            if family.tuned:
                every = {
                    name: _both(data.train[name], data.calibration[name]) for name in data.train
                }
                all_samples = ClientData(data.client, every, data.calibration, data.test)
                tuned = train_local(bench.model, bench.task, all_samples, federated, settings)
                keep(f"tuned-{rounds}/{client}", tuned)
    return tensors


def federated_adapters(
    bench: Workbench, clients: list[ClientData], rounds: tuple[int, ...]
) -> Iterator[tuple[int, Adapter]]:
    """Run FedIT with all clients; yield the federated adapter after each of ``rounds``."""
    settings = bench.settings
    adapter = bench.model.initial
    for server_round in range(1, rounds[-1] + 1):
        updates = [
            train(
                bench.model,
                bench.task,
                adapter,
                data.train,
                settings.train,
                steps=settings.train.local_steps,
                seed=derive_seed(settings.seed, "round", server_round, data.client),
                who=f"client {data.client}, round {server_round}",
            )[0]
            for data in clients
        ]
        averaged = weighted_average(
            [{name: tensor.numpy() for name, tensor in update.items()} for update in updates],
            [num_samples(data.train) for data in clients],
        )
        adapter = {name: torch.from_numpy(array) for name, array in averaged.items()}
        if server_round in rounds:
            yield server_round, adapter


def _both(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Join two tensors of samples; texts are padded to the longer one."""
    if first.ndim == 2 and first.shape[1] != second.shape[1]:
        width = max(first.shape[1], second.shape[1])
        pad = torch.nn.functional.pad
        first, second = (pad(tensor, (0, width - tensor.shape[1])) for tensor in (first, second))
    return torch.cat([first, second])
