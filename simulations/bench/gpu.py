"""Measure what can only be seen on a CUDA GPU; write its table into docs/research/benchmarks.md.

    python -m simulations.bench.gpu
    python -m simulations.bench.gpu --language-model SMOLLM2 --language-data QUESTIONS.jsonl

On the embedded model, and on SmolLM2-135M where it is named. What is measured takes the place of
its rows, and the others stay. It needs no Ray; `make gpu` runs the tests of tests/gpu before it.
"""

from __future__ import annotations

import functools
import gc
import importlib.util
import multiprocessing
import statistics
import sys
import tempfile
import time
import traceback
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from rich.console import Console
from torch import Tensor

from potara_flwr.command.exit_status import exit_status
from potara_flwr.core.errors import RunError
from potara_flwr.core.seeds import derive_seed
from potara_flwr.in_process import run_in_process
from potara_flwr.methods import Client
from potara_flwr.models.adapter import Adapter
from potara_flwr.results.folder import read_results
from potara_flwr.run_config import from_flat
from potara_flwr.settings.groups import Value
from potara_flwr.settings.schema import Settings
from potara_flwr.tasks.base import num_samples, take
from potara_flwr.training.local_steps import batches
from simulations.bench import one_phase, parity
from simulations.bench.page import GPU_PARTS, PAGE, write
from simulations.bench.parity import TOLERANCES, client_on, distance, exact, flat, work_of
from simulations.bench.real_models import questions
from simulations.bench.rows import Seen
from simulations.measuring import parser_of

GPU, CPU = torch.device("cuda"), torch.device("cpu")
TIMED_STEPS = 60
SPEED = ("speed",)
"""What names the order of samples in timed training."""
START_SECONDS = 600
"""In which a client's process has loaded its model and trained."""
REAL: dict[str, Value] = {
    "data.partition": "natural",
    "data.partition-column": "task",
    "data.num-clients": 8,
    "data.test-samples": 60,
    "federation.rounds": 10,
    "federation.fraction-evaluate": 0.0,
    "train.local-steps": 5,
    "local.steps": 100,
    "merge.compare": False,
    "run.report": False,
}
"""The run on real data, besides :func:`~simulations.bench.real_models.questions`."""


@dataclass(frozen=True)
class Material:
    """A base model with its data."""

    name: str
    settings: Settings


def materials(args: Namespace) -> list[Material]:
    """Return the embedded model, and that of the command line."""
    found = [Material("embedded ViT", from_flat({}))]
    if args.language_model:
        found.append(Material("SmolLM2-135M, batches of 4", from_flat(questions(args))))
    return found


def with_model(settings: Settings, **values: Any) -> Settings:
    """Return settings with other ones of the base model."""
    return settings.model_copy(update={"model": settings.model.model_copy(update=values)})


def seen(part: str, what: str, *values: float, **more: Any) -> Seen:
    """Return a row of this GPU."""
    where = f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    return Seen(part, what, values, more.pop("aim", None), where, **more)


def float32_rows(args: Namespace) -> Iterator[Seen]:
    """Compare a client's numbers with those of the CPU."""
    for material in materials(args):
        with exact():
            found, right = (work_of(client_on(material.settings, at)) for at in (GPU, CPU))
        for name, value in parity.differences(found, right).items():
            yield seen("float32", f"{name}, {material.name}", value, aim=TOLERANCES[name])


def bfloat16_rows(args: Namespace) -> Iterator[Seen]:
    """Compare bfloat16 with float32."""
    for material in materials(args):
        small = with_model(material.settings, dtype="bfloat16")
        found, right = (work_of(client_on(at, GPU)) for at in (small, material.settings))
        apart = parity.differences(found, right)
        yield seen("bfloat16", f"losses, {material.name}", apart["losses"], aim=0.02)
        # A rule that looks which of two losses is the lower may leap where they are even.
        yield seen("bfloat16", f"largest of all rules' λ, {material.name}", apart["λ"])


def four_bit_rows(args: Namespace) -> Iterator[Seen]:
    """Compare a base model in 4 bits with one in bfloat16."""
    if importlib.util.find_spec("bitsandbytes") is None:
        yield seen("4-bit", "base model", words="bitsandbytes is not installed")
        return
    for material in materials(args):
        kinds = ({"quantize": "4bit", "dtype": "bfloat16"}, {"dtype": "bfloat16"})
        found, sizes = [], []
        for kind in kinds:
            before = allocated()
            client = client_on(with_model(material.settings, **kind), GPU)
            sizes.append(allocated() - before)
            found.append(work_of(client))
            del client
        apart = parity.differences(*found)
        for name in ("losses", "λ"):
            yield seen("4-bit", f"{name} against bfloat16, {material.name}", apart[name])
        yield seen(
            "4-bit", f"memory of the base model over bfloat16, {material.name}", sizes[0] / sizes[1]
        )


def checkpointing_rows(args: Namespace) -> Iterator[Seen]:
    """Hold training with activations computed anew against training that keeps them."""
    for material in materials(args):
        ways, peaks, seconds = [], [], []
        for anew in (True, False):  # one after the other, each alone on the GPU
            client = client_on(with_model(material.settings, gradient_checkpointing=anew), GPU)
            with exact():
                ways.append(parity.way_of(client)[0])
            peaks.append(peak(functools.partial(parity.train, client)))
            timed(client, SPEED)  # warms up
            seconds.append([timed(client, SPEED) for _ in range(args.repeats)])
            del client
        yield seen(
            "checkpointing", f"trained adapter, {material.name}", distance(*ways),
            aim=TOLERANCES["trained adapter"],
        )  # fmt: skip
        yield seen(
            "checkpointing", f"peak memory of training over that without, {material.name}",
            peaks[0] / peaks[1], aim=1.0,
        )  # fmt: skip
        ratios = [one / other for one, other in zip(*seconds, strict=True)]
        yield seen("checkpointing", f"seconds over those without, {material.name}", *ratios)


def two_client_rows(args: Namespace) -> Iterator[Seen]:
    """Have two clients train in two processes on one GPU, at once and one after the other."""
    for material in materials(args):
        alone = [train_in_processes(material.settings, GPU, [number])[0] for number in (0, 1)]
        ratios = []
        for _ in range(args.repeats):
            at_once = train_in_processes(material.settings, GPU, [0, 1])
            both = max(seconds for _, seconds in at_once)
            ratios.append(both / sum(seconds for _, seconds in alone))
        worst = max(
            distance(flat(one), flat(other))
            for (one, _), (other, _) in zip(at_once, alone, strict=True)
        )
        yield seen(
            "two clients", f"trained adapters, at once and alone, {material.name}", worst,
            aim=TOLERANCES["trained adapter"],
        )  # fmt: skip
        yield seen(
            "two clients", f"seconds at once over one after the other, {material.name}", *ratios
        )


def train_in_processes(
    settings: Settings, device: torch.device, numbers: Sequence[int]
) -> list[tuple[Adapter, float]]:
    """Have clients train, each in a process of its own, all at once; return the adapters and the
    seconds, in the order of the clients.
    """
    context = multiprocessing.get_context("spawn")
    ready, answers = context.Barrier(len(numbers)), context.Queue()
    processes = [
        context.Process(target=_train, args=(settings, device, number, ready, answers))
        for number in numbers
    ]
    for process in processes:
        process.start()
    try:
        found = dict(answers.get(timeout=START_SECONDS) for _ in numbers)
    finally:
        for process in processes:
            process.kill()
            process.join()
    return [
        ({name: torch.from_numpy(array) for name, array in arrays.items()}, seconds)
        for arrays, seconds in (found[number] for number in numbers)
    ]


def _train(settings: Settings, device: torch.device, number: int, ready: Any, answers: Any) -> None:
    client = client_on(settings, device, number)
    with exact():
        adapter, _ = parity.train(client)
        ready.wait(START_SECONDS)
        seconds = timed(client, SPEED)
    answers.put((number, ({name: at.numpy() for name, at in adapter.items()}, seconds)))


def speed_rows(args: Namespace) -> Iterator[Seen]:
    """Measure a client's local training and a bare peft loop on the same batches, in turn."""
    for material in materials(args):
        for dtype in ("float32", "bfloat16"):
            client = client_on(with_model(material.settings, dtype=dtype), GPU)
            bare = BareLoop(client)
            pairs = [(timed(client, SPEED), bare.timed(SPEED)) for _ in range(1 + args.repeats)][
                1:
            ]  # the first warms up
            count, unit = work_in(client, SPEED)
            ours, theirs = (count / statistics.median(at) for at in zip(*pairs, strict=True))
            yield seen(
                "speed",
                f"a client over a bare peft loop, {material.name}, {dtype} "
                f"({ours:,.0f} over {theirs:,.0f} {unit} a second)",
                *(other / one for one, other in pairs),
                aim=0.97,
                at_least=True,
            )


class BareLoop:
    """Local training as with peft and torch alone, of a client's samples in the client's order."""

    def __init__(self, client: Client) -> None:
        self.client, self.device = client, client.model.module.device
        module: Any = get_peft_model(client.task.load_base_model(), client.model.config)
        self.module = module.to(self.device).train()
        self.trained = [one for one in module.parameters() if one.requires_grad]

    def train(self, start: Adapter, order: Sequence[Tensor]) -> Adapter:
        """Take a step for each of the batches; return the adapter."""
        names, train = self.client.model.parameters, self.client.settings.train
        self.module.load_state_dict(
            {names[name]: tensor for name, tensor in start.items()}, strict=False
        )
        optimizer = torch.optim.AdamW(
            self.trained, lr=train.learning_rate, weight_decay=train.weight_decay, foreach=True
        )
        for indices in order:
            on_cpu = self.client.task.collate(take(self.client.samples, indices))
            batch = {name: at.to(self.device) if at.ndim else at for name, at in on_cpu.items()}
            logits = self.module(**self.inputs(batch)).logits
            loss = self.client.task.losses(logits, batch).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        after = dict(self.module.named_parameters())
        return {name: after[names[name]].detach().cpu() for name in start}

    def inputs(self, batch: dict[str, Tensor]) -> dict[str, Any]:
        """Return what the model sees of a batch, in its type."""
        return {
            name: at.item() if not at.ndim else at.to(self.module.dtype)
            if at.is_floating_point() else at
            for name, at in batch.items()
            if not name.startswith("labels")
        }  # fmt: skip

    def timed(self, purpose: tuple[str]) -> float:
        """Return the seconds of the steps that :func:`timed` has a client take."""
        order = order_of(self.client, purpose)
        return seconds_of(lambda: self.train(self.client.model.initial, order))


def order_of(client: Client, purpose: tuple[str]) -> list[Tensor]:
    """Return the samples of each step, as a client takes them in training for this purpose."""
    seed = derive_seed(client.settings.seed, *purpose, client.data.client)
    size = client.settings.train.batch_size
    return list(batches(num_samples(client.samples), size, TIMED_STEPS, seed))


def work_in(client: Client, purpose: tuple[str]) -> tuple[int, str]:
    """Return how many tokens, without padding, the steps of :func:`timed` take; or images."""
    drawn = torch.cat(order_of(client, purpose))
    if "attention_mask" not in client.samples:
        return len(drawn), "images"
    masks = (client.samples[name][drawn] for name in ("attention_mask", "labels_mask"))
    return sum(int(mask.sum()) for mask in masks), "tokens"


def timed(client: Client, purpose: tuple[str]) -> float:
    """Return the seconds of a client's local training."""
    return seconds_of(
        lambda: client.train(
            client.model.initial, steps=TIMED_STEPS, purpose=purpose, when="in the bench"
        )
    )


def seconds_of(work: Callable[[], object]) -> float:
    """Return the seconds of some work, until the GPU has done it."""
    synchronize()
    began = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - began


def synchronize() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def memory_rows(args: Namespace) -> Iterator[Seen]:
    """Hold the largest memory of the weight phase against that of training."""
    phases = (one_phase.train, one_phase.weigh)
    for material in materials(args):
        client = client_on(material.settings, GPU)
        for phase in phases:
            phase(client)  # warms up: libraries take workspaces
        train, weight = (peak(functools.partial(phase, client)) for phase in phases)
        yield seen(
            "memory",
            f"weight phase over training, {material.name} "
            f"({weight / 2**20:,.0f} over {train / 2**20:,.0f} MiB)",
            weight / train,
            aim=1.05,
        )


def allocated() -> int:
    """Return the bytes that tensors take on the GPU."""
    gc.collect()
    return torch.cuda.memory_allocated()


def peak(work: Callable[[], object]) -> int:
    """Return the most bytes that tensors have taken on the GPU during some work, with the model."""
    allocated()
    torch.cuda.reset_peak_memory_stats()
    work()
    return torch.cuda.max_memory_allocated()


def real_rows(args: Namespace) -> Iterator[Seen]:
    """Run the whole federation of eight tasks on SmolLM2-135M, where it is named."""
    if not args.language_model:
        return
    with tempfile.TemporaryDirectory() as folder:
        settings = from_flat({**questions(args), **REAL, "run.results": f"{folder}/run"})
        began = time.perf_counter()
        clients = read_results(run_in_process(settings))["clients"]
        minutes = (time.perf_counter() - began) / 60
    name = "SmolLM2-135M, eight tasks"
    for adapter in ("initial", "federated", "local"):
        accuracies = [client["accuracy"][adapter] for client in clients]
        yield seen("real data", f"accuracy {adapter}, {name}", statistics.mean(accuracies))
    merged = statistics.mean(client["personalized"]["accuracy"] for client in clients)
    yield seen("real data", f"accuracy personalized, {name}", merged)
    yield seen("real data", f"minutes of the run, {name}", minutes)


PARTS: dict[str, Callable[[Namespace], Iterator[Seen]]] = dict(
    zip(
        GPU_PARTS,
        (
            float32_rows, bfloat16_rows, four_bit_rows, checkpointing_rows, two_client_rows,
            speed_rows, memory_rows, real_rows,
        ),
        strict=True,
    )
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; return the exit status."""
    parser = parser_of("bench.gpu", __doc__)
    add = parser.add_argument
    add("--repeats", type=int, default=5, help="repeats of what takes time (default: 5)")
    add("--only", nargs="+", choices=PARTS, default=[*PARTS], help="measure these parts alone")
    add("--language-model", type=Path, metavar="FOLDER", help="a SmolLM2-135M")
    add(
        "--language-data", type=Path, metavar="FILE",
        help="questions with the columns task, prompt, answer and options",
    )  # fmt: skip
    args = parser.parse_args(arguments)
    if (args.language_model is None) != (args.language_data is None):
        parser.error("--language-model and --language-data belong together")
    if not torch.cuda.is_available():
        parser.error("torch finds no CUDA GPU here")
    return exit_status(lambda: measure(args))


def measure(args: Namespace) -> None:
    """Measure the parts that are asked for; write the page after each.

    Raises
    ------
    RunError
        Some have failed; the page says why.
    """
    failed = []
    for part in args.only:
        try:
            rows = list(PARTS[part](args))
        except Exception as error:  # noqa: BLE001  # it takes nothing from the others
            traceback.print_exc()
            reason = " ".join(str(error).split()).replace("|", "/")[:200]
            rows = [seen(part, "failed", words=f"{type(error).__name__}: {reason}")]
            failed.append(part)
        write(rows)
    Console().print(PAGE.read_text(), markup=False)
    if failed:
        raise RunError(f"not measured: {', '.join(failed)}")


if __name__ == "__main__":
    sys.exit(main())
