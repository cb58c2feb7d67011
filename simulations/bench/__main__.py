"""Measure what runtimes and messages cost over bare PyTorch, what a merge costs, how seconds and
memory grow with the clients, and what a sweep adds.

    python -m simulations.bench
    python -m simulations.bench --only message merge
    python -m simulations.bench --only scale --clients 100 1000
    python -m simulations.bench --language-model SMOLLM2 --language-data QUESTIONS.jsonl
    python -m simulations.bench --image-model DINOV2 --image-data IMAGES

Every figure is a ratio of two measurements of the same run of this program, taken in turn, so that
a slow or busy machine slows both. Writes ``docs/research/benchmarks.md``, where what is measured
takes the place of its rows, and the others stay. Without a pretrained model its parts are left out.
All of it takes about an hour, half of which is ``scale``, and ten minutes more with the models.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch
from peft import get_peft_model
from rich.console import Console
from safetensors.torch import save_file

from potara_flwr.command.exit_status import exit_status
from potara_flwr.core.seeds import derive_seed
from potara_flwr.models.pretrained import find_model
from potara_flwr.results.folder import read_results
from potara_flwr.run_config import from_flat
from potara_flwr.running.display import LiveDisplay
from potara_flwr.running.flower_cli import PACKAGE
from potara_flwr.running.flower_runtime import run_with_flower
from potara_flwr.running.one_run import run
from potara_flwr.settings.groups import Value
from potara_flwr.settings.schema import Settings
from potara_flwr.tasks.base import num_samples, take
from potara_flwr.tasks.workbench import Workbench
from potara_flwr.training.local_steps import batches, one_thread
from simulations.bench.many_clients import Size, partitions, simulated, sizes, sweep
from simulations.bench.memory import peak_memory
from simulations.bench.page import PAGE, write
from simulations.bench.real_models import image_rows, prompt_rows, weight_rows
from simulations.bench.rows import Row
from simulations.measuring import parser_of

CONSOLE = Console()
NO_EXTRAS: dict[str, Value] = {"federation.fraction-evaluate": 0.0, "local.steps": 1}
SHORT: dict[str, Value] = {**NO_EXTRAS, "federation.rounds": 6}
LONG: dict[str, Value] = {**NO_EXTRAS, "federation.rounds": 4, "train.local-steps": 70}
WHY = (
    "a step hands its adapter to the model (about 4 %), a message is serialized, measured, checked "
    "and averaged (about 10 ms)"
)


def bare_seconds(settings: Settings) -> float:
    """Return the seconds a round takes in a bare PyTorch and peft loop, on one thread."""
    bench = Workbench(settings)
    initial, parameters = bench.model.initial, bench.model.parameters
    module = get_peft_model(bench.task.load_base_model(), bench.model.config)
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


RUNTIMES: dict[str, Callable[[dict[str, Value]], dict[str, Any]]] = {
    "in-process": in_process,
    "flwr run": through_flwr,
}


def runtime_rows(name: str, repeats: int, aims: Sequence[float]) -> list[Row]:
    """Measure rounds of a runtime over the bare loop, on short and on long messages."""
    rows = []
    for words, overrides, aim in (
        ("the default's messages", SHORT, aims[0]),
        ("a second of work a message", LONG, aims[1]),
    ):
        settings, ratios = from_flat(overrides), []
        for _ in range(repeats):
            before = bare_seconds(settings)
            seconds = round_seconds(RUNTIMES[name](overrides))
            after = bare_seconds(settings)
            ratios.append(2 * seconds / (before + after))
        rows.append(Row(f"{name}: seconds of a round over bare PyTorch, {words}", ratios, aim, WHY))
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
    answer.put(peak_memory())


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


BARE = """
import sys, torch, transformers, peft
transformers.AutoModelForImageClassification.from_pretrained(sys.argv[1])
"""


NODE = """
import os, sys
from potara_flwr.warm.node import PRELOADED, warm_folder
main = "simulations.bench.fresh_message:main"
print(warm_folder(os.environ, 3600.0, main, PRELOADED), flush=True)
sys.stdin.read()
"""
STEPS, MANY_STEPS = 10, 60
"""Of a message; the difference tells what a step takes."""
ALLOWED = 0.3
"""Seconds that a message on a warm SuperNode may take beyond its training."""


@contextmanager
def warm_client(environment: dict[str, str]) -> Iterator[str]:
    """Keep a warm node for as long as the block lasts; yields its ``flwr-clientapp``."""
    with subprocess.Popen(
        [sys.executable, "-c", NODE], env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as node:  # fmt: skip
        assert node.stdout is not None
        yield f"{node.stdout.readline().strip()}/flwr-clientapp"
        node.communicate()


def processor_seconds(command: list[str], environment: dict[str, str]) -> tuple[float, str]:
    """Return the processor seconds of a process, and what it has printed.

    An import is nothing else, and other processes do not add to it.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def message_rows(repeats: int) -> list[Row]:
    """Measure a training message as on a SuperNode: on a cold one over a process that imports
    torch, transformers and peft and loads the base model, on a warm one over a cold one and over
    its training alone.
    """
    settings = from_flat({})
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {
        "OMP_NUM_THREADS": "1", "PATH": path, "PYTHONPATH": str(PAGE.parents[2]),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, warm_client(environment) as client:
        save_file(Workbench(settings).model.initial, Path(folder) / "adapter.safetensors")
        for file in PACKAGE.rglob("*.py"):  # as Flower unpacks it
            place = Path(folder) / "app" / file.relative_to(PACKAGE.parent)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, place)

        def cold(steps: int) -> float:
            command = [sys.executable, "-m", "simulations.bench.fresh_message", *words(steps)]
            return processor_seconds(command, environment)[0]

        def warm(steps: int) -> float:
            command = [client, *words(steps)]
            processor_seconds(command, environment)  # has these settings' model held
            shim, of_fork = processor_seconds(command, environment)
            return shim + float(of_fork)

        def words(steps: int) -> list[str]:
            return [folder, json.dumps({"train.local-steps": steps})]

        def bare() -> float:
            command = [sys.executable, "-c", BARE, find_model(settings.task.model)]
            return processor_seconds(command, environment)[0]

        cold(STEPS)  # the first message of a node prepares its samples
        rounds = [
            (cold(STEPS), bare(), warm(STEPS), warm(MANY_STEPS)) for _ in range(2 * repeats + 1)
        ]
    training = statistics.median(
        (many - few) * STEPS / (MANY_STEPS - STEPS) for _, _, few, many in rounds
    )
    at_cold, at_bare, at_warm, _ = (
        statistics.median(column) for column in zip(*rounds, strict=True)
    )
    return [
        Row(
            "SuperNode: processor seconds of a message's process over import and load "
            f"({at_cold:.1f} s over {at_bare:.1f} s)",
            [one / other for one, other, _, _ in rounds],
            None,
        ),
        Row(
            "SuperNode, warm over cold: processor seconds of a message, but for its ten steps "
            f"({at_warm - training:.2f} s over {at_cold - training:.2f} s)",
            [(few - training) / (one - training) for one, _, few, _ in rounds],
            None,
        ),
        Row(
            "SuperNode, warm: processor seconds of a message over its ten steps + 0.3 s "
            f"({at_warm:.2f} s; the steps {training:.2f} s)",
            [few / (training + ALLOWED) for _, _, few, _ in rounds],
            1.0,
            "the shim, the import system's look at the app's files, and the state on the disk",
        ),
    ]


PARTS: dict[str, Callable[[Namespace], Iterable[Row | Size]]] = {
    "merge": lambda args: [merge_row()],
    "in-process": lambda args: runtime_rows("in-process", args.repeats, (1.05, 1.05)),
    "flwr": lambda args: runtime_rows("flwr run", args.repeats, (1.15, 1.10)),
    "message": lambda args: message_rows(args.repeats),
    "memory": lambda args: memory_rows(),
    "weight-phase": weight_rows,
    "shared-prompt": prompt_rows,
    "personalization": image_rows,
    "partition": partitions,
    "scale": sizes,
    "simulation": simulated,
    "sweep": sweep,
}
MODELS = {
    "weight-phase": ("language_model", "language_data"),
    "shared-prompt": ("language_model", "language_data"),
    "personalization": ("image_model", "image_data"),
}
"""Part → the options without which it is left out."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; return the exit status."""
    parser = parser_of("bench", __doc__)
    add = parser.add_argument
    add("--repeats", type=int, default=3, help="repeats of each measurement (default: 3)")
    add("--only", nargs="+", choices=PARTS, help="measure these parts alone")
    add(
        "--clients", type=int, nargs="+", default=[100, 400, 1000, 5000],
        help="numbers of clients of --only scale (default: 100 400 1000 5000)",
    )  # fmt: skip
    add("--language-model", type=Path, metavar="FOLDER", help="a SmolLM2-135M")
    add(
        "--language-data", type=Path, metavar="FILE",
        help="questions with the columns task, prompt, answer and options",
    )  # fmt: skip
    add("--image-model", type=Path, metavar="FOLDER", help="a DINOv2-S")
    add("--image-data", type=Path, metavar="FOLDER", help="images with labels")
    args = parser.parse_args(arguments)
    there = [
        part
        for part in PARTS
        if all(getattr(args, option) is not None for option in MODELS.get(part, ()))
    ]
    for part in set(args.only or ()) - set(there):
        options = (f"--{option.replace('_', '-')}" for option in MODELS[part])
        parser.error(f"--only {part} needs {' and '.join(options)}")
    return exit_status(lambda: measure(args.only or there, args))


def measure(parts: Sequence[str], args: Namespace) -> None:
    """Measure some parts; write the page after each row."""
    # All of it is of a CPU, also where there is a GPU (simulations.bench.gpu).
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    for row in (row for part in parts for row in PARTS[part](args)):
        write([row])
    CONSOLE.print(PAGE.read_text(), markup=False)


if __name__ == "__main__":
    sys.exit(main())
