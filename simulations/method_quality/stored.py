"""What is kept of a run, small enough to be part of the project, and known by its settings."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from potara_flwr.core.storage import write_whole
from potara_flwr.settings.fingerprint import fingerprint
from potara_flwr.settings.schema import Settings
from potara_flwr.sweeps.jobs import Job, run_job
from simulations.measuring import differing
from simulations.method_quality.studies import Benchmark, Run, accuracy, best_rates, tuning_run

OF_CLIENT = (
    "client", "num_test", "optimizer_steps", "personalized", "accuracy", "weights", "seconds"
)  # fmt: skip


def compact(results: dict[str, Any], settings: Settings) -> Run:
    """Return of ``results.json`` what the page needs, numbers to six digits after the point."""
    kept = {
        "method": results["method"],
        "config": portable(settings).computed(),
        "digest": results["digest"],
        "rounds": len(results["rounds"]),
        "communication": {
            name: results["communication"][name] for name in ("bytes_up", "bytes_down")
        },
        "clients": [
            {name: client[name] for name in OF_CLIENT if name in client}
            for client in results["clients"]
        ],
        "summary": {name: results["summary"][name] for name in ("optimizer_steps", "mean")},
        "seconds": results["seconds"],
    }
    rounded: Run = json.loads(json.dumps(kept), parse_float=lambda text: round(float(text), 6))
    # A setting such as a damping of 1e-8 is no measure, and is kept as it is.
    return rounded | {"config": kept["config"]}


def make(settings: Settings, folder: Path) -> Run:
    """Make a run in a folder of its own below ``folder``, unless it is there."""
    job = Job(f"{settings.method},seed={settings.seed}", settings, folder)
    results = job.results()
    if results is None:
        run_job(job)
        results = job.results()
    assert results is not None
    return compact(results, settings)


def portable(settings: Settings) -> Settings:
    """Return settings with the names alone of data and model, as they are on any machine."""
    data = settings.data.model_copy(update={"path": Path(settings.data.path).name})
    task = settings.task.model_copy(update={"model": Path(settings.task.model).name})
    return settings.model_copy(update={"data": data, "task": task})


class Store:
    """The stored runs of a benchmark, in one file."""

    def __init__(self, benchmark: Benchmark, folder: Path) -> None:
        self.benchmark = benchmark
        self.name = benchmark.name
        self.file = folder / f"{benchmark.name}.json.gz"
        self._runs: list[Run] = []
        if self.file.is_file():
            self._runs = json.loads(gzip.decompress(self.file.read_bytes()))

    def __contains__(self, settings: Settings) -> bool:
        """Say whether the run with these settings is stored."""
        return bool(self.of([settings]))

    def add(self, run: Run) -> None:
        """Store a run; the file is written whole or not at all."""
        others = [stored for stored in self._runs if not _same(stored["config"], run["config"])]
        self._runs = sorted([*others, run], key=lambda stored: fingerprint(stored["config"]))
        write_whole(self.file, gzip.compress(json.dumps(self._runs).encode(), mtime=0))

    def of(self, wanted: Iterable[Settings]) -> list[Run]:
        """Return the stored ones among the runs that are wanted, in their order."""
        configs = [portable(settings).computed() for settings in wanted]
        return [run for config in configs for run in self._runs if _same(run["config"], config)]

    def one(self, wanted: Settings) -> Run | None:
        """Return a stored run, None where it is not stored."""
        return next(iter(self.of([wanted])), None)

    def tuned(self) -> dict[tuple[str, float], float]:
        """Return (entry, learning rate) → accuracy at the tuning seed, of what is stored."""
        benchmark = self.benchmark
        runs = {
            (entry, rate): self.one(tuning_run(benchmark, entry, rate))
            for entry in benchmark.entries
            for rate in benchmark.rates
        }
        return {key: accuracy(run) for key, run in runs.items() if run is not None}

    def rates(self) -> dict[str, float]:
        """Return entry → its learning rate, by the tuning runs that are stored."""
        return best_rates(self.benchmark, self.tuned())


def _same(stored: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Say whether two runs are the same run."""
    decisive = ("seed", "method")  # most differ in these, which are soon compared
    return all(stored[name] == now[name] for name in decisive) and not differing(stored, now)
