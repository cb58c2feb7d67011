"""The runs behind docs/research/results.md: every method on every benchmark, by one protocol.

A study is a benchmark with one or more settings that change from run to run. The learning rate of
each method is the best of one grid, by test accuracy at a seed that no table reports.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from potara_flwr.methods import METHODS
from potara_flwr.run_config import from_flat
from potara_flwr.running.composition import compose_settings
from potara_flwr.settings.schema import Settings

Run = dict[str, Any]
"""What is kept of a run's ``results.json``."""

LEARNING_RATES = (1e-3, 3e-3, 1e-2, 3e-2)
TUNING_SEED = 100
TRANSPORTS = ("float32", "float16", "bfloat16", "int8")
TRANSPORT_METHODS = ("potara", "fedit")
TRANSPORT_BENCHMARK = "digits-shared"
TRANSPORT_SEEDS = 5
DIGITS = ("digits-shared", "digits-conflicting")
SENTIMENT = "sentiment"
SENTIMENT_CLIENTS = 8


@dataclass(frozen=True)
class Benchmark:
    """One federation, but for method, seed and what else a study changes."""

    name: str
    settings: Settings

    def run(self, method: str, seed: int, rate: float, transport: str = "float32") -> Settings:
        """Return the settings of one run."""
        return from_flat(
            self.settings.to_flat()
            | {
                "method": method,
                "seed": seed,
                "train.learning-rate": rate,
                "federation.transport": transport,
            }
        )


def benchmarks(data: Path | None, model: Path | None) -> dict[str, Benchmark]:
    """Return every benchmark by its name. ``data`` and ``model`` are those of sentiment; without
    them its stored runs are found, but none can be made.
    """
    words = {
        name: ["experiment=digits", f"data.shift={name.removeprefix('digits-')}"] for name in DIGITS
    }
    words[SENTIMENT] = [
        "experiment=sentiment",
        f"data.num-clients={SENTIMENT_CLIENTS}",
        "data.shift=conflicting",  # of digits alone: texts have none
        f"data.path='{data or 'sentiment4.parquet'}'",
        f"task.model='{model or 'model'}'",
    ]
    # Scoring the federated adapter after every round changes no result, and costs bytes and time.
    quiet = "federation.fraction-evaluate=0.0"
    return {
        name: Benchmark(name, compose_settings([*given, quiet])) for name, given in words.items()
    }


def tuning(benchmark: Benchmark) -> Iterator[Settings]:
    """Yield the runs that choose each method's learning rate."""
    for method in METHODS:
        for rate in LEARNING_RATES:
            yield benchmark.run(method, TUNING_SEED, rate)


def best_rates(benchmark: Benchmark, runs: Iterable[Run]) -> dict[str, float]:
    """Return method → the learning rate with the best accuracy at the tuning seed; the benchmark's
    own where the grid was not run.
    """
    rates = {}
    for method in METHODS:
        scores = {
            run["config"]["train"]["learning-rate"]: accuracy(run)
            for run in runs
            if run["method"] == method and run["config"]["seed"] == TUNING_SEED
        }
        complete = set(scores) == set(LEARNING_RATES)
        own = benchmark.settings.train.learning_rate
        rates[method] = max(scores, key=scores.__getitem__) if complete else own
    return rates


def contest(benchmark: Benchmark, seed: int, rates: Mapping[str, float]) -> Iterator[Settings]:
    """Yield the runs of one seed that are compared: every method."""
    for method in METHODS:
        yield benchmark.run(method, seed, rates[method])


def transports(benchmark: Benchmark, seed: int, rates: Mapping[str, float]) -> Iterator[Settings]:
    """Yield the runs of one seed that tell what each transport costs in accuracy."""
    for method in TRANSPORT_METHODS:
        for transport in TRANSPORTS:
            yield benchmark.run(method, seed, rates[method], transport)


def accuracy(run: Run) -> float:
    """Return the mean accuracy of a run's personalized adapters, a fraction."""
    return float(run["summary"]["mean"]["accuracy"]["personalized"])
