"""A client of the tiny federation as a method sees it, without any message."""

import functools

from potara_flwr.methods import METHODS, Client
from potara_flwr.tasks.workbench import Workbench


@functools.cache
def _models(*_) -> dict:
    """Return the base models that have been loaded by some settings."""
    return {}


def bench_of(settings) -> Workbench:
    """Return a workbench of its own, with a base model that is loaded once a process."""
    group = _models(settings.task, settings.model, settings.lora, settings.seed)
    return Workbench(settings, group)


def client_of(settings, client: int = 0) -> Client:
    """Return a client that has kept nothing yet."""
    bench = bench_of(settings)
    return METHODS[settings.method].client(bench, bench.client(client))


def moved(client: Client, steps: int = 6, purpose: str = "elsewhere") -> dict:
    """Return an adapter that someone else has trained."""
    adapter, _ = client.train(client.model.initial, steps=steps, purpose=(purpose,), when="before")
    return adapter


def same_bits(left, right) -> bool:
    """Say whether two adapters are equal to the bit."""
    return left.keys() == right.keys() and all(
        left[name].numpy().tobytes() == right[name].numpy().tobytes() for name in left
    )
