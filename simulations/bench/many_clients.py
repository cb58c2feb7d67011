"""How cost grows with the number of clients, and what a sweep adds to its runs."""

from __future__ import annotations

import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import numpy as np
from rich.console import Console

from potara_flwr.data.partition import partition
from potara_flwr.results.folder import RESULTS, read_results
from potara_flwr.run_config import from_flat
from potara_flwr.running.display import LiveDisplay
from potara_flwr.running.flower_runtime import run_with_flower
from simulations.bench.rows import Row
from simulations.bench.scale import make_material, settings_of

PARTITIONED = (1000, 5000)
"""Clients among whom samples are partitioned."""
A_CLIENT = 50
"""Samples of each."""
SIMULATED = (50, 200)
"""SuperNodes of a simulation."""
JOBS = (
    "seed=0,1,2,3,4,5,6,7", "local.start=warm,cold", "data.num-clients=4", "federation.rounds=10",
    "local.steps=150", "run.report=false",
)  # fmt: skip
"""Words of the sweep: sixteen runs of 800 optimizer steps each."""


@dataclass(frozen=True)
class Size:
    """A line of the table of sizes: what a run of so many clients in one process took."""

    table: ClassVar[str] = "clients"

    clients: int
    seconds: float
    """Of processor time, the whole run."""
    peak: float
    """Of resident memory, MiB."""
    results: int
    """Bytes of the file; so are the others."""
    report: int
    checkpoint: int

    def __str__(self) -> str:
        cells = (
            f"{self.clients:,}", f"{self.seconds:.0f}", f"{1000 * self.seconds / self.clients:.0f}",
            f"{self.peak:.0f}", f"{self.results / 1e6:.2f}", f"{self.report / 1e6:.2f}",
            f"{self.checkpoint / 1e6:.2f}",
        )  # fmt: skip
        return f"| {' | '.join(cells)} |"


def sizes(args: Namespace) -> Iterator[Row | Size]:
    """Measure a run of each number of clients, in a process of its own."""
    found = []
    with tempfile.TemporaryDirectory() as material:
        make_material(Path(material), max(args.clients))
        for clients in sorted(args.clients):
            found.append(_size(material, clients))
            yield found[-1]
    yield from growth(found)


def growth(found: Sequence[Size]) -> Iterator[Row]:
    """Hold what a further client takes against what it takes where clients are few, and the memory
    of many clients against that of the fewest.
    """
    steps = list(pairwise(found))
    for one, other in steps[1:]:
        first = steps[0]
        yield Row(
            "in-process: processor seconds of a further client, "
            f"{one.clients:,} to {other.clients:,} clients over "
            f"{first[0].clients:,} to {first[1].clients:,} "
            f"({_further(one, other):.3f} s over {_further(*first):.3f} s)",
            [_further(one, other) / _further(*first)],
            1.1,
            "see the table of sizes",
        )
    for few, many in ((found[0], many) for many in found[1:]):
        kilobytes = (many.peak - few.peak) * 1024 / (many.clients - few.clients)
        yield Row(
            f"in-process: peak memory, {many.clients:,} clients over {few.clients:,} "
            f"({kilobytes:.0f} kB a further client)",
            [many.peak / few.peak],
            1.1,
            "see the table of sizes",
        )


def _size(material: str, clients: int) -> Size:
    process = subprocess.run(
        [sys.executable, "-m", "simulations.bench.scale", material, str(clients)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    return Size(clients, **json.loads(process.stdout.splitlines()[-1]))


def _further(one: Size, other: Size) -> float:
    return (other.seconds - one.seconds) / (other.clients - one.clients)


def partitions(args: Namespace) -> list[Row]:
    """Measure how long a partition takes for each client, by its kind."""
    rows = []
    for kind in ("dirichlet", "pathological", "natural", "iid"):
        seconds_of = functools.partial(_partitioning, kind)
        seconds_of(10)  # imports
        taken = [[seconds_of(clients) for clients in PARTITIONED] for _ in range(args.repeats)]
        few, many = PARTITIONED
        least, most = (statistics.median(column) for column in zip(*taken, strict=True))
        rows.append(
            Row(
                f"partition, {kind}, {A_CLIENT} samples a client: processor seconds a client, "
                f"{many:,} clients over {few:,} (in all {most:.2f} s over {least:.2f} s)",
                [(b / many) / (a / few) for a, b in taken],
                1.1,
                "26 µs a client at 1,000 clients, 30 µs at 5,000 and at 20,000 (Dirichlet)",
            )
        )
    return rows


def _partitioning(kind: str, clients: int) -> float:
    """Return the processor seconds of a partition."""
    keys = np.random.default_rng(0).integers(0, 10, A_CLIENT * clients)
    settings = from_flat(
        {
            "data.partition": kind,
            "data.partition-column": "user" if kind == "natural" else "",
            "data.num-clients": clients,
        }
    )
    start = time.process_time()
    partition(settings.data, 0, keys)
    return time.process_time() - start


def simulated(args: Namespace) -> list[Row]:
    """Measure a round through ``flwr run``, on as many Ray actors as there are cores."""
    ratios, taken = [], []
    with tempfile.TemporaryDirectory() as folder:
        make_material(Path(folder), max(SIMULATED))
        for repeat in range(args.repeats):
            seconds = []
            for clients in SIMULATED:
                results = Path(folder) / f"run-{clients}-{repeat}"
                settings = from_flat(
                    {
                        **settings_of(Path(folder), clients),
                        "federation.rounds": 4,
                        "run.results": str(results),
                        "run.report": False,
                    }
                )
                with LiveDisplay(Console(quiet=True)) as display:
                    run_with_flower(settings, display)
                rounds = [record["seconds"] for record in read_results(results)["rounds"][1:]]
                seconds.append(statistics.median(rounds) / clients)
            taken.append(seconds)
            ratios.append(seconds[1] / seconds[0])
    few, many = (1000 * statistics.median(column) for column in zip(*taken, strict=True))
    return [
        Row(
            f"flwr run, {os.cpu_count()} actors: seconds of a round and client, "
            f"{SIMULATED[1]} clients over {SIMULATED[0]} ({many:.0f} ms over {few:.0f} ms)",
            ratios,
            1.1,
            "Flower asks for the replies of all clients that still work",
        )
    ]


def sweep(args: Namespace) -> list[Row]:
    """Measure a sweep of sixteen short runs over the optimizer steps of its runs, shared by the
    cores.
    """
    cores = os.cpu_count() or 1
    over_training, over_runs = [], []
    for _ in range(args.repeats):
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            subprocess.run(
                [
                    sys.executable, "-m", "potara_flwr.command", "sweep", "hydra/launcher=ray",
                    *JOBS, "--results", folder,
                ],
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                check=True, stdout=subprocess.DEVNULL,
            )  # fmt: skip
            wall = time.perf_counter() - start
            runs = [read_results(place.parent) for place in Path(folder).glob(f"*/{RESULTS}")]
        training = sum(
            client["seconds"]["training"] for results in runs for client in results["clients"]
        )
        over_training.append(wall * cores / training)
        over_runs.append(wall * cores / sum(sum(results["seconds"].values()) for results in runs))
    what = f"sweep of 16 short runs on {cores} cores"
    return [
        Row(
            f"{what}: seconds over those of its runs' optimizer steps, shared by the cores",
            over_training,
            1.3,
            "each run also scores its adapters on test samples after every round, and computes "
            "traces, weights and eleven merges of every client",
        ),
        Row(f"{what}: seconds over those of its runs, shared by the cores", over_runs, None),
    ]
