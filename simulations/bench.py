"""Measure what the runtimes cost over bare PyTorch, what a merge costs, and how memory grows.

    python -m simulations.bench

Every figure is a ratio of two measurements of the same run of this program, taken in turn, so that
a slow or busy machine slows both. Writes ``docs/benchmarks.md``. Takes about ten minutes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import resource
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from peft import get_peft_model
from rich.console import Console

from potara_flwr.config import Settings, Value, from_flat
from potara_flwr.results import read_results
from potara_flwr.seeds import derive_seed
from potara_flwr.tasks.base import num_samples, take
from potara_flwr.training import batches, one_thread
from potara_flwr.workbench import Workbench
from simulations.display import LiveDisplay
from simulations.flower_runtime import run_with_flower
from simulations.run import run

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
CONSOLE = Console()
NO_EXTRAS: dict[str, Value] = {"federation.fraction-evaluate": 0.0, "local.steps": 1}
SHORT: dict[str, Value] = {**NO_EXTRAS, "federation.rounds": 6}
LONG: dict[str, Value] = {**NO_EXTRAS, "federation.rounds": 4, "train.local-steps": 70}
WHY = (
    "a step hands its adapter to the model (about 4 %), a message is serialized, measured, checked "
    "and averaged (about 10 ms)"
)


@dataclass(frozen=True)
class Row:
    """One line of the table: a ratio in each repeat, the aim it is held against, and where a miss
    would come from.
    """

    what: str
    ratios: list[float]
    aim: float | None
    why: str = ""

    def __str__(self) -> str:
        low, middle, high = min(self.ratios), statistics.median(self.ratios), max(self.ratios)
        aim = "–" if self.aim is None else f"≤ {self.aim:g}"
        met = "–" if self.aim is None else "yes" if middle <= self.aim else f"no: {self.why}"
        return f"| {self.what} | {middle:.3f} | {low:.3f} – {high:.3f} | {aim} | {met} |"


def bare_seconds(settings: Settings) -> float:
    """Return the seconds a round takes in a bare PyTorch and peft loop, on one thread."""
    bench = Workbench(settings)
    initial, parameters = bench.model.initial, bench.model.parameters
    module = get_peft_model(bench.task.load_base_model(settings), bench.model.config)
    state = {parameters[name]: tensor for name, tensor in initial.items()}
    clients = [bench.client(client).train for client in range(settings.data.num_clients)]
    trained = [p for p in module.parameters() if p.requires_grad]
    module.train()
    seconds = []
    with one_thread():
        for server_round in range(settings.federation.rounds):
            start = time.perf_counter()
            for client, samples in enumerate(clients):
                module.load_state_dict(state, strict=False)
                optimizer = torch.optim.AdamW(
                    trained, lr=settings.train.learning_rate, weight_decay=0.0, foreach=True
                )
                order = batches(
                    num_samples(samples),
                    settings.train.batch_size,
                    settings.train.local_steps,
                    derive_seed(settings.seed, "round", server_round, client),
                )
                for indices in order:
                    batch = take(samples, indices)
                    logits = module(pixel_values=batch["pixel_values"]).logits
                    loss = torch.nn.functional.cross_entropy(logits, batch["labels"])
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    optimizer.step()
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def round_seconds(results: dict[str, Any]) -> float:
    """Return the median seconds of a round, without the first, which loads everything."""
    seconds: list[float] = [record["seconds"] for record in results["rounds"][1:]]
    return statistics.median(seconds)


def in_process(overrides: dict[str, Value]) -> dict[str, Any]:
    """Run in this process; return the results."""
    with tempfile.TemporaryDirectory() as folder:
        settings = from_flat({**overrides, "run.results": f"{folder}/run"})
        return read_results(run(settings, "in-process", CONSOLE))


def through_flwr(overrides: dict[str, Value]) -> dict[str, Any]:
    """Run through ``flwr run`` with one Ray actor, so that clients come one after the other."""
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder, LiveDisplay(CONSOLE) as display:
        settings = from_flat({**overrides, "run.results": f"{folder}/run"})
        return read_results(run_with_flower(settings, display, cpus_per_client=cores))


def runtime_rows(repeats: int) -> list[Row]:
    """Measure rounds of both runtimes over the bare loop, on short and on long messages."""
    rows = []
    for words, overrides, aims in (
        ("the default's messages", SHORT, (1.05, None)),
        ("a second of work a message", LONG, (1.05, 1.10)),
    ):
        settings = from_flat(overrides)
        ratios: dict[str, list[float]] = {"in-process": [], "flwr run": []}
        for _ in range(repeats):
            for name, runtime in (("in-process", in_process), ("flwr run", through_flwr)):
                before = bare_seconds(settings)
                seconds = round_seconds(runtime(overrides))
                after = bare_seconds(settings)
                ratios[name].append(2 * seconds / (before + after))
        rows += [
            Row(f"{name}: seconds of a round over bare PyTorch, {words}", ratios[name], aim, WHY)
            for name, aim in zip(ratios, aims, strict=True)
        ]
    return rows


def merge_row() -> Row:
    """Measure traces, weight and merge of each client over its 300 local steps."""
    results = in_process({"federation.rounds": 1})
    ratios = [
        client["seconds"]["weight"] / client["seconds"]["local_training"]
        for client in results["clients"]
    ]
    return Row("traces + weight + merge over 300 local steps, 30 samples", ratios, 0.02)


def many_clients(num_clients: int) -> dict[str, Value]:
    """Return settings of a short run with this many clients, each with the same few samples."""
    return {
        "data.num-clients": num_clients,
        "data.alpha": 100.0,
        "data.train-samples": 10,
        "calibration.samples": 4,
        "federation.rounds": 2,
        "train.local-steps": 2,
        "local.steps": 2,
    }


def _peak_of_this_process(num_clients: int, answer: Any) -> None:
    in_process(many_clients(num_clients))
    answer.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def peak_in_process(num_clients: int) -> float:
    """Return the peak resident memory, MiB, of a fresh process that runs a federation."""
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=_peak_of_this_process, args=(num_clients, answer))
    process.start()
    peak: float = answer.get()
    process.join()
    return peak


def peak_of_actors(num_clients: int) -> float:
    """Return the largest resident memory, MiB, that a Ray actor of a ``flwr run`` had."""
    peak = 0.0
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.2):
            for process in psutil.process_iter(["name", "cmdline", "memory_info"]):
                if "ClientAppActor" in " ".join(process.info["cmdline"] or []):
                    peak = max(peak, process.info["memory_info"].rss / 2**20)

    watcher = threading.Thread(target=watch)
    watcher.start()
    through_flwr(many_clients(num_clients))
    done.set()
    watcher.join()
    return peak


def memory_rows() -> list[Row]:
    """Measure peak memory with 100 clients over 10."""
    measures: tuple[tuple[str, Callable[[int], float]], ...] = (
        ("in-process: peak memory of the process", peak_in_process),
        ("flwr run: peak memory of a Ray actor", peak_of_actors),
    )
    return [
        Row(f"{words}, 100 clients over 10", [measure(100) / measure(10)], 1.05)
        for words, measure in measures
    ]


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=3, help="repeats of each runtime")
    args = parser.parse_args()
    rows = [merge_row(), *runtime_rows(args.repeats), *memory_rows()]
    lines = "\n".join(str(row) for row in rows)
    PAGE.write_text(
        f"""# Benchmarks

Written by `make bench`, which measures each ratio's two sides in turn. Client work runs on one
thread; `flwr run` with one Ray actor, so that both sides train one client after the other. The
first round of a run, which loads everything, is left out. On {os.cpu_count()} cores
({platform.machine()}), Python {platform.python_version()}, torch {torch.__version__}.

| ratio | median | range | aim | met |
|---|---|---|---|---|
{lines}
"""
    )
    CONSOLE.print(PAGE.read_text(), markup=False)


if __name__ == "__main__":
    main()
