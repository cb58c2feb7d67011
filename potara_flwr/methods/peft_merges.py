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
from potara_flwr.methods.outcome import Outcome
from potara_flwr.methods.personalization import local_once, refit_once
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
    model, task, data, settings = client.model, client.task, client.data, client.settings
    local, before = local_once(model, task, data, received, settings, client.once)
    local, after = refit_once(model, task, data, local, settings, client.once)
    client.count(settings.local.steps, before + after)
    began = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(settings.seed, "merge", data.client))
        personalized = merge(model.initial, [received, local])
    seconds_weight = time.perf_counter() - began
    return Outcome(
        scores={
            "initial": client.score(model.initial),
            "federated": client.score(received),
            "local": client.score(local),
            "personalized": client.score(personalized),
        },
        adapters={"": personalized, "local": local},
        seconds_local_training=before + after,
        seconds_weight=seconds_weight,
    )
