"""Every rule and candidate on every client of a family: λ, test scores, seconds."""

from __future__ import annotations

import functools
import gzip
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from potara_flwr.core.storage import write_whole
from potara_flwr.merging.diagnosis import diagnose
from potara_flwr.merging.rules import GRID, RULES
from potara_flwr.merging.segment import Weight, mean_weight, segment_between
from potara_flwr.methods import METHODS, Client
from potara_flwr.methods.potara import gather_evidence
from potara_flwr.models.adapter import Adapter
from potara_flwr.models.lora import device_of
from potara_flwr.models.runner import AdaptedModel
from potara_flwr.tasks.base import ClientData, Samples, num_samples
from potara_flwr.tasks.workbench import Workbench
from potara_flwr.training.gradients import per_sample_gradients
from potara_flwr.training.local_steps import on_device, one_thread, parts, train
from simulations.merge_quality.candidates import CANDIDATES, Case
from simulations.merge_quality.families import (
    STARTS,
    Adapters,
    Family,
    check_settings,
    decisive,
    train_family,
)

VERSION = 2
"""Of what is measured: measures of another version are made again."""

TIMED_STEPS = 20


def measure_family(family: Family, adapters: Adapters) -> list[dict[str, Any]]:
    """Return one record a client, start and number of rounds."""
    with one_thread():
        bench = Workbench(family.settings())
        return [
            _measure(family, bench, adapters, start, rounds, client)
            for client in range(bench.settings.data.num_clients)
            for rounds in family.rounds
            for start in STARTS
        ]


def make(family: Family, adapters: Path, file: Path) -> str:
    """Train and measure a family and store its measures; return its name."""
    store(measure_family(family, train_family(family, adapters / family.name)), family, file)
    return family.name


def store(cases: list[dict[str, Any]], family: Family, file: Path) -> None:
    """Write a family's measures, numbers to six digits after the point; whole or not at all."""
    content = {"version": VERSION, "settings": decisive(family), "cases": _rounded(cases)}
    write_whole(file, gzip.compress(json.dumps(content).encode(), mtime=0))


def stored(family: Family, file: Path) -> list[dict[str, Any]] | None:
    """Return the measures in a file; None where there are none, or of another version.

    Raises
    ------
    SystemExit
        They were made with other settings.
    """
    if not file.is_file():
        return None
    content = json.loads(gzip.decompress(file.read_bytes()))
    if content["version"] != VERSION:
        return None
    check_settings(content["settings"], family, file)
    cases: list[dict[str, Any]] = content["cases"]
    return cases


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return round(value, 6) if isinstance(value, float) else value


def _measure(
    family: Family, bench: Workbench, adapters: Adapters, start: str, rounds: int, client: int
) -> dict[str, Any]:
    data, settings = bench.client(client), bench.settings
    this = METHODS["potara"].client(bench, data)
    federated = adapters.federated(rounds)
    halfway = segment_between(federated, adapters.halfway(start, rounds, client), "factors")
    segment = segment_between(federated, adapters.local(start, rounds, client), "factors")
    scorer = Scorer(bench, data.test)

    began = time.perf_counter()
    evidence = gather_evidence(this, halfway)
    seconds_evidence = time.perf_counter() - began
    passes = [
        per_sample_gradients(bench.model, bench.task, adapter, data.calibration).gradients
        for adapter in (halfway.federated, halfway.local)
    ]
    case = Case(bench.model, bench.task, data, halfway, evidence, passes[0], passes[1])

    def scored(choose: Callable[[], Weight]) -> dict[str, float]:
        began = time.perf_counter()
        weight = choose()
        seconds = time.perf_counter() - began
        loss, accuracy = scorer(segment.at(weight), None if isinstance(weight, Mapping) else weight)
        return {
            "weight": mean_weight(weight),
            "accuracy": accuracy,
            "loss": loss,
            "seconds": seconds,
        }

    rules: dict[str, Any] = {
        name: scored(functools.partial(rule, evidence)) for name, rule in RULES.items()
    }
    for name in ("excess-loss", "variance-trace"):
        weight = rules[name]["weight"]
        found = diagnose(evidence, weight)
        kept = float(found.better == "federated") if found.worse else weight
        rules[f"{name} + fallback"] = scored(functools.partial(float, kept)) | {
            "fell_back": found.worse,
            "favours": found.favours,
            "low": found.low,
            "high": found.high,
            "warned": bool(found.warning),
        }
    rules |= {
        name: scored(functools.partial(candidate, case)) for name, candidate in CANDIDATES.items()
    }
    return {
        "group": family.group,
        "samples": settings.data.train_samples,
        "seed": family.seed,
        "start": start,
        "rounds": rounds,
        "client": client,
        "num_train": num_samples(data.train),
        "num_test": num_samples(data.test),
        "num_classes": len(data.train["labels"].unique()),
        "seconds_evidence": seconds_evidence,
        "seconds_training": settings.local.steps * _step_seconds(bench, data, federated),
        "rules": rules,
        "grid": [
            dict(zip(("loss", "accuracy"), scorer(segment.at(point), point), strict=True))
            for point in GRID
        ],
        "oracle_of_halves": scorer.oracle_of_halves(),
        "adapter_bytes": sum(t.numel() * t.element_size() for t in bench.model.initial.values()),
        "steps": rounds * settings.train.local_steps + settings.local.steps,
        "initial": scorer(bench.model.initial, None)[1],
        "tuned": scorer(adapters.tuned(rounds, client), None)[1],
        "kept_out": _kept_out(this, adapters, start, rounds, scorer),
    }


def _kept_out(
    client: Client,
    adapters: Adapters,
    start: str,
    rounds: int,
    scorer: Scorer,
) -> float | None:
    """Return the accuracy of the default rule's merge where local training, warm, never sees the
    calibration samples: the weight is chosen for the very adapter that is merged.
    """
    local = adapters.kept_out(rounds, client.data.client)
    if local is None or start == "cold":
        return None
    segment = segment_between(adapters.federated(rounds), local, "factors")
    evidence = gather_evidence(client, segment)
    return scorer(segment.at(RULES["excess-loss"](evidence)), None)[1]


class Scorer:
    """Test scores of merges; a point of the segment is scored once."""

    def __init__(self, bench: Workbench, samples: Samples) -> None:
        self.bench = bench
        self.samples = samples
        self._points: dict[float, tuple[Tensor, Tensor]] = {}

    def __call__(self, adapter: Adapter, point: float | None) -> tuple[float, float]:
        """Return mean loss and accuracy; ``point`` is the adapter's λ, None off the segment."""
        if point is None:
            losses, correct = self._score(adapter)
        else:
            if point not in self._points:
                self._points[point] = self._score(adapter)
            losses, correct = self._points[point]
        return losses.mean().item(), correct.mean().item()

    def oracle_of_halves(self) -> float:
        """Return the accuracy on each half of the test data of the grid point that is best on the
        other half: an oracle that does not flatter itself.
        """
        corrects = torch.stack([self._points[point][1] for point in GRID])
        order = torch.randperm(corrects.shape[1], generator=torch.Generator().manual_seed(0))
        halves = order.tensor_split(2)
        total = 0.0
        for chosen_on, scored_on in (halves, halves[::-1]):
            if len(chosen_on) == 0:
                return corrects.mean(1).max().item()
            best = corrects[:, chosen_on].mean(1).argmax()
            total += corrects[best, scored_on].sum().item()
        return total / corrects.shape[1]

    @torch.no_grad()
    def _score(self, adapter: Adapter) -> tuple[Tensor, Tensor]:
        device = device_of(self.bench.model.module)
        model = AdaptedModel(self.bench.model, on_device(adapter, device))
        parted = parts(self.samples, 64, device)
        scored = [self.bench.task.scores(model, part) for part in parted]
        losses, correct = zip(*scored, strict=True)
        return torch.cat(losses).double().cpu(), torch.cat(correct).double().cpu()


def _step_seconds(bench: Workbench, data: ClientData, adapter: Adapter) -> float:
    """Return the seconds of a local step now, so that a busy machine slows both sides."""
    began = time.perf_counter()
    train(
        bench.model, bench.task, adapter, data.train, bench.settings.train,
        steps=TIMED_STEPS, seed=0, who="timing",
    )  # fmt: skip
    return (time.perf_counter() - began) / TIMED_STEPS
