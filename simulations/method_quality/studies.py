"""The runs behind docs/research/results.md: methods on every benchmark, by one protocol.

A benchmark is a federation; its entries are the methods that are compared on it, each at the
learning rate that is best of one grid, by test accuracy at a seed that no table reports. Defaults
were chosen on other seeds than those that tables report.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from potara_flwr.methods import METHODS
from potara_flwr.run_config import from_flat
from potara_flwr.running.composition import compose_settings
from potara_flwr.settings.groups import Value
from potara_flwr.settings.schema import Settings

Run = dict[str, Any]
"""What is kept of a run's ``results.json``."""

TUNING_SEED = 100
TRANSPORTS = ("float32", "float16", "bfloat16", "int8")
TRANSPORT_METHODS = ("fedit",)
TRANSPORT_BENCHMARK = "digits-shared"
TRANSPORT_SEEDS = 5
ROUNDS = {
    "potara": (2, 5, 10, 20),
    "fedit_ft": (2, 5, 10, 20),
    "fedit": (2, 5, 10, 20, 50, 100),
}
"""Method → the rounds at which it is compared, with the same local training after them, if any."""
ROUNDS_BENCHMARK = "digits-shared"
FRESH = (10, 11, 12, 13, 14)
"""Seeds that chose nothing: no default, no rule, no learning rate."""
DIGITS = ("digits-shared", "digits-conflicting")
SENTIMENT = "sentiment"
CIFAR10 = "cifar10-dinov2"
"""The main benchmark."""
MANY = "cifar10-dinov2-20-clients"
DOMAINS = "cifar10-dinov2-domains"
"""The same model and images with more clients and skew, and with a shift of the images instead."""
PAPER = "potara (paper)"
"""Potara with the paper's own choices, of which its rule for λ is one."""
SETTINGS_OF: dict[str, dict[str, Value]] = {
    PAPER: {
        "method": "potara",
        "local.start": "cold",
        "calibration.source": "training",
        "calibration.damping": 1e-8,
        "merge.rule": "variance-trace",
        "merge.fallback": False,
    }
}
"""Entry → its settings, of those that are not a method at its defaults."""
REFERENCE = "potara"
BASELINE = "fedit_ft"
"""The method that Potara has to beat: as many bytes, as many steps, all samples, no merge."""


@dataclass(frozen=True)
class Materials:
    """The files of the benchmarks that are not embedded. Without them stored runs are found, but
    none can be made.
    """

    sentiment_data: Path | None = None
    sentiment_model: Path | None = None
    cifar10_data: Path | None = None
    cifar10_model: Path | None = None
    cifar10_domains: Path | None = None
    """Made of ``cifar10_data`` (:mod:`~simulations.method_quality.domains`)."""

    def of(self, benchmark: str) -> tuple[Path | None, Path | None]:
        """Return data and model of a benchmark."""
        return {
            SENTIMENT: (self.sentiment_data, self.sentiment_model),
            CIFAR10: (self.cifar10_data, self.cifar10_model),
            MANY: (self.cifar10_data, self.cifar10_model),
            DOMAINS: (self.cifar10_domains, self.cifar10_model),
        }[benchmark]


@dataclass(frozen=True)
class Benchmark:
    """One federation, but for method, seed and what else a study changes."""

    name: str
    title: str
    settings: Settings
    entries: tuple[str, ...] = tuple(METHODS)
    """What is compared: methods, and variants of them (:data:`SETTINGS_OF`)."""
    rates: tuple[float, ...] = ()
    """Grid of learning rates; without one all entries have the preset's, or their own."""
    own_rates: Mapping[str, float] = field(default_factory=dict)
    """Entry → its learning rate, where it was chosen on another benchmark."""
    seeds: tuple[int, ...] = tuple(range(5))
    """The seeds that tables report, in the order in which they are run."""
    can_run: bool = True
    """Whether data and model are at hand."""

    def run(
        self, entry: str, seed: int, rate: float, more: Mapping[str, Value] | None = None
    ) -> Settings:
        """Return the settings of one run, some of them by their flat names in ``more``."""
        chosen: dict[str, Value] = {"seed": seed, "train.learning-rate": rate}
        chosen |= {"federation.transport": "float32"}
        chosen |= SETTINGS_OF.get(entry, {"method": entry})
        return from_flat({**self.settings.to_flat(), **chosen, **(more or {})})


def benchmarks(materials: Materials) -> dict[str, Benchmark]:
    """Return every benchmark by its name, the main one first."""
    # Scoring the federated adapter after every round changes no result, and costs bytes and time.
    quiet = "federation.fraction-evaluate=0.0"
    found = [
        _of_cifar10(
            CIFAR10,
            "CIFAR-10 on DINOv2 ViT-S: 8 clients, Dirichlet 0.3",
            materials,
            quiet,
            entries=("potara", "fedit_ft", "local", "fedit", "feddpa_f", PAPER),
            rates=(3e-4, 1e-3, 3e-3),
        ),
        _of_cifar10(
            MANY,
            "CIFAR-10 on DINOv2 ViT-S: 20 clients, Dirichlet 0.1",
            materials,
            quiet,
            "data.num-clients=20",
            "data.alpha=0.1",
        ),
        _of_cifar10(
            DOMAINS,
            "CIFAR-10 on DINOv2 ViT-S: 8 clients, four domains (blur, low contrast, grey, JPEG)",
            materials,
            quiet,
            "data.partition=natural",
            "data.partition-column=domain",
        ),
    ]
    default = Settings().data.shift
    for name in DIGITS:
        shift = name.removeprefix("digits-")
        title = f"Digits, {shift} shift{' (the embedded default)' * (shift == default)}"
        settings = compose_settings(["experiment=digits", f"data.shift={shift}", quiet])
        found.append(Benchmark(name, title, settings, rates=(1e-3, 3e-3, 1e-2, 3e-2)))
    data, model = materials.of(SENTIMENT)
    words = ["experiment=sentiment", "data.num-clients=8", quiet]
    words += ["data.shift=conflicting"]  # of digits alone: texts have none
    words += _paths(data or "sentiment4.parquet", model or "model")
    found.append(
        Benchmark(
            SENTIMENT,
            "Sentiment: 8 clients, four domains, MiniLM",
            compose_settings(words),
            seeds=(0, 1, 10, 11, 12),
            can_run=bool(data and model),
        )
    )
    return {benchmark.name: benchmark for benchmark in found}


CIFAR10_RATES = {REFERENCE: 3e-3, BASELINE: 1e-3}
"""Best at the tuning seed of the main benchmark."""


def _of_cifar10(
    name: str, title: str, materials: Materials, *words: str,
    entries: tuple[str, ...] = (REFERENCE, BASELINE), rates: tuple[float, ...] = (),
) -> Benchmark:  # fmt: skip
    """Return a benchmark of CIFAR-10 on DINOv2, with some settings of its own."""
    data, model = materials.of(name)
    file = "cifar10-domains.parquet" if name == DOMAINS else "cifar10.parquet"
    words = ("data.image-column=image", *words, *_paths(data or file, model or "dinov2-small"))
    return Benchmark(
        name,
        title,
        compose_settings(["experiment=cifar10-dinov2", *words]),
        entries=entries,
        rates=rates,
        own_rates={} if rates else CIFAR10_RATES,
        seeds=FRESH,
        can_run=bool(data and model),
    )


def _paths(data: Path | str, model: Path | str) -> list[str]:
    """Return the words that name data and model."""
    return [f"data.path='{data}'", f"task.model='{model}'"]


def tuning(benchmark: Benchmark) -> Iterator[Settings]:
    """Yield the runs that choose each entry's learning rate, by their accuracy alone."""
    for rate in benchmark.rates:
        for entry in benchmark.entries:
            yield tuning_run(benchmark, entry, rate)


def tuning_run(benchmark: Benchmark, entry: str, rate: float) -> Settings:
    """Return one of :func:`tuning`."""
    quiet = {"merge.compare": False} if benchmark.name == CIFAR10 else None
    return benchmark.run(entry, TUNING_SEED, rate, quiet)


def best_rates(
    benchmark: Benchmark, accuracies: Mapping[tuple[str, float], float]
) -> dict[str, float]:
    """Return entry → the learning rate with the best accuracy at the tuning seed.

    Parameters
    ----------
    accuracies : Mapping
        (entry, learning rate) → accuracy at the tuning seed. An entry whose grid is not complete
        has the benchmark's own rate for it, or the preset's.
    """
    best = dict.fromkeys(benchmark.entries, benchmark.settings.train.learning_rate)
    best |= benchmark.own_rates
    for entry in benchmark.entries:
        scores = {
            rate: accuracies[entry, rate] for rate in benchmark.rates if (entry, rate) in accuracies
        }
        if scores and len(scores) == len(benchmark.rates):
            best[entry] = max(scores, key=scores.__getitem__)
    return best


def contest(benchmark: Benchmark, seed: int, rates: Mapping[str, float]) -> dict[str, Settings]:
    """Return entry → its run at one seed."""
    return {entry: benchmark.run(entry, seed, rates[entry]) for entry in benchmark.entries}


def transports(benchmark: Benchmark, seed: int, rates: Mapping[str, float]) -> Iterator[Settings]:
    """Yield the runs of one seed that tell what each transport costs in accuracy."""
    for method in TRANSPORT_METHODS:
        for transport in TRANSPORTS:
            yield benchmark.run(method, seed, rates[method], {"federation.transport": transport})


def by_rounds(
    benchmark: Benchmark, seed: int, rates: Mapping[str, float]
) -> Iterator[tuple[str, int, Settings]]:
    """Yield method, rounds and run of one seed, of those that tell what rounds are worth."""
    for method, numbers in ROUNDS.items():
        # One without local training would have rounds in its place.
        name = "federation.baseline-rounds" if method == "fedit" else "federation.rounds"
        for number in numbers:
            yield method, number, benchmark.run(method, seed, rates[method], {name: number})


def accuracy(run: Run) -> float:
    """Return the mean accuracy of a run's personalized adapters, a fraction."""
    return float(run["summary"]["mean"]["accuracy"]["personalized"])
