"""Take one phase of a client's work in this process; print its seconds and the memory it took.

    python -m simulations.bench.one_phase PHASE CLIENT SETTINGS

``simulations.bench`` runs it. SETTINGS are flat, as JSON; no message is sent, both adapters of the
client are random. The output is JSON: ``seconds``, of processor time, and ``peak``, the largest
resident memory of this process in MiB.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import torch

from potara_flwr.merging.segment import segment_between
from potara_flwr.methods import METHODS, Client
from potara_flwr.methods.potara import choose, gather_evidence
from potara_flwr.models.adapter import Adapter
from potara_flwr.run_config import from_flat
from potara_flwr.tasks.causal import CausalTask
from potara_flwr.tasks.workbench import Workbench
from potara_flwr.training.local_steps import one_thread
from simulations.bench.memory import peak_memory

STEPS = 8


def moved(client: Client, seed: int) -> Adapter:
    """Return an adapter away from the initial one, so that no factor is zero."""
    draws = torch.Generator().manual_seed(seed)
    return {
        name: tensor + 0.02 * torch.randn(tensor.shape, generator=draws)
        for name, tensor in client.model.initial.items()
    }


def train(client: Client) -> None:
    """Take some optimizer steps."""
    client.train(moved(client, 0), steps=STEPS, purpose=("bench",), when="in the bench")


def train_with_a_row_for_each_option(client: Client) -> None:
    """Take the same steps, the prompt computed anew for every option."""
    assert isinstance(client.task, CausalTask)
    client.task.most_columns = 0
    train(client)


def weigh(client: Client) -> None:
    """Find the mixing weight of two adapters."""
    segment = segment_between(moved(client, 0), moved(client, 1), client.settings.merge.space)
    choose(gather_evidence(client, segment), client.settings)


def score(client: Client) -> None:
    """Score an adapter on the test samples."""
    client.score(moved(client, 0))


PHASES: dict[str, tuple[Callable[[Client], None], int]] = {
    "train": (train, STEPS),
    "train-apart": (train_with_a_row_for_each_option, STEPS),
    "weigh": (weigh, 1),
    "score": (score, 1),
}
"""Name → what is done, and how often the unit of which is told."""


def main() -> None:
    """Take the phase that the command line names."""
    phase, times = PHASES[sys.argv[1]]
    settings = from_flat(json.loads(sys.argv[3]))
    bench = Workbench(settings)
    client = METHODS[settings.method].client(bench, bench.client(int(sys.argv[2])))
    with one_thread():
        began = time.process_time()
        phase(client)
        seconds = (time.process_time() - began) / times
    print(json.dumps({"seconds": seconds, "peak": peak_memory()}))


if __name__ == "__main__":
    main()
