"""What is kept of a run, small enough to be part of the project, and known by its settings."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from potara_flwr.core.storage import write_whole
from potara_flwr.settings.schema import Settings, flat
from simulations.method_quality.studies import Benchmark, Run

OF_CLIENT = ("client", "num_test", "optimizer_steps", "personalized", "accuracy", "seconds")


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
        "clients": [{name: client[name] for name in OF_CLIENT} for client in results["clients"]],
        "summary": {name: results["summary"][name] for name in ("optimizer_steps", "mean")},
        "seconds": results["seconds"],
    }
    rounded: Run = json.loads(json.dumps(kept), parse_float=lambda text: round(float(text), 6))
    # A setting such as a damping of 1e-8 is no measure, and is kept as it is.
    return rounded | {"config": kept["config"]}


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
        self._runs: dict[str, Run] = {}
        if self.file.is_file():
            runs = json.loads(gzip.decompress(self.file.read_bytes()))
            self._runs = {_key(run["config"]): run for run in runs}

    def __contains__(self, settings: Settings) -> bool:
        """Say whether the run with these settings is stored."""
        return _key(portable(settings).computed()) in self._runs

    def add(self, run: Run) -> None:
        """Store a run; the file is written whole or not at all."""
        self._runs[_key(run["config"])] = run
        ordered = [self._runs[key] for key in sorted(self._runs)]
        write_whole(self.file, gzip.compress(json.dumps(ordered).encode(), mtime=0))

    def of(self, wanted: Iterable[Settings]) -> list[Run]:
        """Return the stored ones among the runs that are wanted, in their order."""
        keys = [_key(portable(settings).computed()) for settings in wanted]
        return [self._runs[key] for key in keys if key in self._runs]

    def of_all(self) -> list[Run]:
        """Return all stored runs."""
        return list(self._runs.values())


def _key(config: dict[str, Any]) -> str:
    """Return what makes two runs the same run. A setting that is newer than a stored run is at its
    default, which changes no number.
    """
    known = Settings().to_flat()
    values = {name: value for name, value in flat(config).items() if name in known}
    decisive = {name: v for name, v in (known | values).items() if not name.startswith("run.")}
    return json.dumps(decisive, sort_keys=True)
