"""The adapters that the merge-quality benchmark merges: trained once, kept on disk.

A family is one federation at one seed: its federated adapter after few and after many rounds, and
for each of them every client's local adapter, cold and warm, when its weight is chosen and at the
end; and what it is held against: the federated adapter fine-tuned on all of a client's samples, and
a warm local adapter that never sees the calibration samples. Cold local training does not depend on
the rounds, and few rounds are the first of many, so all of a family is trained in one go, by the
same functions and seeds as the apps (a test holds both to the same bits).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save

from potara_flwr.core.seeds import derive_seed
from potara_flwr.core.storage import write_whole
from potara_flwr.methods import METHODS
from potara_flwr.methods.local_adapter import refit, refit_steps, train_local
from potara_flwr.models.adapter import Adapter
from potara_flwr.run_config import from_flat
from potara_flwr.settings.groups import Value
from potara_flwr.settings.schema import Settings
from potara_flwr.strategies.averages import weighted_average
from potara_flwr.tasks.base import ClientData, num_samples
from potara_flwr.tasks.workbench import Workbench
from potara_flwr.training.local_steps import one_thread, train
from simulations.measuring import differing

STARTS = ("cold", "warm")
DIGITS = (("lora.target-modules", "q_proj,v_proj"),)
"""What every family of digits fixes: the modules that the default finds by itself."""


@dataclass(frozen=True)
class Family:
    """One federation at one seed, and when its federated adapter is taken."""

    group: str
    """``shared``, ``conflicting``, ``sentiment``, ``one-class`` or ``one-client``."""
    seed: int
    rounds: tuple[int, ...]
    """Ascending; the last one ends the federation."""
    overrides: tuple[tuple[str, Value], ...]
    kept_out: bool
    """Whether warm local training without the calibration samples is measured, after the last
    round."""

    def settings(
        self, start: str = "warm", rounds: int | None = None, refit: bool = True
    ) -> Settings:
        """Return the settings of one run of the family, with or without the refit."""
        return from_flat(
            {
                "seed": self.seed,
                "federation.transport": "float32",
                "federation.rounds": rounds or self.rounds[-1],
                "local.start": start,
                "calibration.source": "held-out",
                **dict(self.overrides),
                **({} if refit else {"local.refit-share": 0.0}),
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
                overrides = (*DIGITS, ("data.shift", shift), ("data.train-samples", samples))
                yield Family(shift, seed, (5, 20), overrides, kept_out=samples == 100)


def edge_families(seeds: int) -> Iterator[Family]:
    """Yield federations at the edge: clients with one or two classes, and one client alone."""
    for seed in range(seeds):
        skewed = (*DIGITS, ("data.shift", "shared"), ("data.alpha", 1e-3), ("data.num-clients", 6))
        yield Family("one-class", seed, (20,), skewed, kept_out=False)
        alone = (*DIGITS, ("data.shift", "conflicting"), ("data.num-clients", 1),
                 ("data.alpha", 100.0))  # fmt: skip
        yield Family("one-client", seed, (20,), alone, kept_out=False)


def sentiment_families(seeds: int, data: Path, model: Path) -> Iterator[Family]:
    """Yield twelve clients of four domains, three a domain, on a pretrained text encoder.

    ``data`` is a file with the columns text, label, split and domain.
    """
    for seed in range(seeds):
        overrides: dict[str, Value] = {
            "task.name": "text-classification",
            "task.model": str(model),
            "data.path": str(data),
            "data.shift": "conflicting",  # of digits alone: texts have none
            "data.split-column": "split",
            "data.partition": "natural",
            "data.partition-column": "domain",
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
        yield Family("sentiment", seed, (15,), tuple(overrides.items()), kept_out=True)


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

    def halfway(self, start: str, rounds: int, client: int) -> Adapter:
        """Return a client's local adapter when its weight is chosen."""
        return self._part(f"halfway-{start}-{rounds}/{client}/")

    def tuned(self, rounds: int, client: int) -> Adapter:
        """Return the federated adapter fine-tuned on all of a client's samples but its test data,
        by as many steps as a local adapter takes.
        """
        return self._part(f"tuned-{rounds}/{client}/")

    def kept_out(self, rounds: int, client: int) -> Adapter | None:
        """Return a warm local adapter that never saw the calibration samples, where there is."""
        return self._part(f"kept-out-{rounds}/{client}/") or None

    def _part(self, prefix: str) -> Adapter:
        return {
            name.removeprefix(prefix): tensor
            for name, tensor in self._tensors.items()
            if name.startswith(prefix)
        }


def decisive(family: Family) -> dict[str, Any]:
    """Return the settings that decide a family's adapters and measures, flat; of data and model
    their names alone, so that what is stored on one machine holds on another.
    """
    settings = family.settings().to_flat()
    names = {name: Path(str(settings[name])).name for name in ("data.path", "task.model")}
    kept = {name: v for name, v in settings.items() if not name.startswith(("merge.", "run."))}
    return kept | names | {"rounds": list(family.rounds)}


def check_settings(stored: dict[str, Any], family: Family, where: Path) -> None:
    """Check that something was made with a family's settings.

    Raises
    ------
    SystemExit
        A setting differs; names it.
    """
    for name, (then, now) in differing(stored, decisive(family)).items():
        raise SystemExit(f"error: {where} was made with {name}={then!r}, not {now!r}; remove it")


def train_family(family: Family, folder: Path) -> Adapters:
    """Return a family's adapters; those that are in ``folder`` are not trained again.

    Raises
    ------
    SystemExit
        The folder holds adapters that were trained with other settings.
    """
    file = folder / "adapters.safetensors"
    if file.is_file():
        with safe_open(file, "pt") as stored:
            check_settings(json.loads(stored.metadata()["settings"]), family, file)
        return Adapters(load_file(file))
    with one_thread():
        tensors = _train(family, Workbench(family.settings()))
    write_whole(file, save(tensors, metadata={"settings": json.dumps(decisive(family))}))
    return Adapters(tensors)


def _train(family: Family, bench: Workbench) -> dict[str, torch.Tensor]:
    settings = bench.settings
    clients = [bench.client(client) for client in range(settings.data.num_clients)]
    tensors: dict[str, torch.Tensor] = {}

    def keep(prefix: str, client: int, adapter: Adapter) -> None:
        names = {f"{prefix}/{client}/{name}": tensor for name, tensor in adapter.items()}
        tensors.update({name: tensor.clone() for name, tensor in names.items()})

    def local(data: ClientData, start: Adapter, chosen: Settings) -> tuple[Adapter, Adapter]:
        client = replace(METHODS["potara"].client(bench, data), settings=chosen)
        later = refit_steps(chosen)
        halfway, _ = train_local(client, start, later)
        return halfway, refit(client, halfway, later)[0]

    cold = [local(data, bench.model.initial, family.settings("cold")) for data in clients]
    without_refit = family.settings(refit=False)
    for rounds, federated in federated_adapters(bench, clients, family.rounds):
        tensors.update({f"federated-{rounds}/{name}": t.clone() for name, t in federated.items()})
        for client, data in enumerate(clients):
            pairs = {"cold": cold[client], "warm": local(data, federated, settings)}
            for start, (halfway, end) in pairs.items():
                keep(f"halfway-{start}-{rounds}", client, halfway)
                keep(f"{start}-{rounds}", client, end)
            every = replace(data, train=data.train_and_calibration)
            tuned, _ = local(every, federated, without_refit)
            keep(f"tuned-{rounds}", client, tuned)
            if family.kept_out and rounds == family.rounds[-1]:
                adapter, _ = local(data, federated, without_refit)
                keep(f"kept-out-{rounds}", client, adapter)
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
