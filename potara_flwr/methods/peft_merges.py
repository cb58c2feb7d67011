"""TIES and DARE: other merges of Potara's two adapters, through peft's functions."""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Callable

import torch
from peft.utils.merge_utils import dare_linear, ties
from torch import Tensor

from potara_flwr.core.seeds import derive_seed
from potara_flwr.methods.client import Client
from potara_flwr.methods.local_adapter import train_local
from potara_flwr.methods.outcome import Outcome, report_of
from potara_flwr.models.adapter import Adapter

Merge = Callable[[list[Tensor], Tensor, float], Tensor]
"""Task vectors, their weights, the density → the merged task vector."""


def merge_by_ties(client: Client, received: Adapter) -> Outcome:
    """Keep the largest entries of each task vector, elect a sign for each entry, and average those
    that have it (arXiv 2306.01708).
    """
    density = client.settings.baseline.ties_density
    merge = functools.partial(merge_task_vectors, ties, 1.0, density)
    return _merged(client, received, merge)


def merge_by_dare(client: Client, received: Adapter) -> Outcome:
    """Drop entries of each task vector at random, rescale the others, and average
    (arXiv 2311.03099).
    """
    density = client.settings.baseline.dare_density
    merge = functools.partial(merge_task_vectors, dare_linear, 0.5, density)
    return _merged(client, received, merge)


def merge_task_vectors(
    merge: Merge, weight: float, density: float, initial: Adapter, adapters: list[Adapter]
) -> Adapter:
    """Merge tensor by tensor; a task vector is what training has added to the initial adapter.

    ``weight`` is that of every task vector: 1 for TIES, which averages by itself.
    """
    weights = torch.full((len(adapters),), weight)
    merged = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The density .* no pruning")
        for name, start in initial.items():
            vectors = [adapter[name] - start for adapter in adapters]
            merged[name] = start + merge(vectors, weights.to(start.device), density)
    return merged


def _merged(
    client: Client, received: Adapter, merge: Callable[[Adapter, list[Adapter]], Adapter]
) -> Outcome:
    local, seconds_of_training = train_local(client, received)
    began = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(client.settings.seed, "merge", client.data.client))
        personalized = merge(client.model.initial, [received, local])
    seconds = time.perf_counter() - began
    scores = {
        "initial": client.score(client.model.initial),
        "federated": client.score(received),
        "local": client.score(local),
        "personalized": client.score(personalized),
    }
    report = report_of(client, scores, local_training=seconds_of_training, weight_seconds=seconds)
    return Outcome({"": personalized, "local": local}, report)
