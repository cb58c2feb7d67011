"""FedDPA: a federated and a local adapter, weighted for every sample by how near it is to the
client's own data (arXiv 2403.19211).
"""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from torch import Tensor

from potara_flwr.adapters import Adapter
from potara_flwr.merging import segment_between
from potara_flwr.methods.base import Client, Outcome, Update
from potara_flwr.methods.pair import Companion, Tensors, run_pair
from potara_flwr.seeds import generator
from potara_flwr.tasks.base import Samples, num_samples, take

LOCAL = "local"
IN_TRAINING = 0.5
"""Weight of each adapter while the local one is trained."""


def train_local_then_federated(client: Client, received: Adapter, server_round: int) -> Update:
    """FedDPA-T: train the local adapter next to the frozen federated one, and then the federated
    one as FedIT does.
    """
    client.kept[LOCAL], _ = client.train_in_round(
        client.kept.get(LOCAL, received),
        server_round,
        stream="local round",
        model=next_to(client, received),
    )
    return Update(*client.train_in_round(received, server_round))


def next_to(client: Client, federated: Adapter) -> Companion:
    """Return the model as a function of the local adapter, with the frozen federated one."""

    def run(local: Tensors, samples: Samples) -> Tensor:
        half = segment_between(federated, dict(local), "delta").at(IN_TRAINING)
        return client.model(half, samples)

    return Companion(client.model, run)


def keep_pair(client: Client, received: Adapter) -> Outcome:
    """End with the last federated adapter and the local one (FedDPA-T)."""
    local = client.kept.get(LOCAL, received)
    began = time.perf_counter()
    model = Weighted(client, received, local)
    seconds = time.perf_counter() - began
    scores = {
        "initial": client.score(client.model.initial),
        "federated": client.score(received),
        "local": client.score(local),
        "personalized": client.score(local, Companion(client.model, model)),
    }
    weight = 1 - torch.cat(model.local_weights).mean().item()
    return Outcome(scores, {"local": local}, weight=weight, seconds_weight=seconds)


def train_local_after(client: Client, received: Adapter) -> Outcome:
    """FedDPA-F: train the local adapter after the rounds, from the federated one and next to it."""
    before = client.seconds
    steps = client.settings.local.steps
    client.kept[LOCAL], _ = client.train_alone(received, steps, next_to(client, received))
    outcome = keep_pair(client, received)
    return replace(outcome, seconds_local_training=client.seconds - before)


class Weighted:
    """Runs both adapters, each sample's local weight α being the mean cosine similarity of its
    representation to those of a few of the client's training samples, times a scale.

    A representation is the mean of the last hidden states that the local adapter gives to the
    attended tokens. The update is (1 − α) ΔW_f + α ΔW_l, and the heads' logits are weighted alike.
    """

    def __init__(self, client: Client, federated: Adapter, local: Adapter) -> None:
        self.client, self.federated, self.local = client, federated, local
        self.scale = client.settings.baseline.feddpa_scale
        self.local_weights: list[Tensor] = []
        """α of every sample that was run, (n,) a batch."""
        total = num_samples(client.samples)
        draw = generator(client.settings.seed, "similar samples", client.data.client)
        chosen = torch.randperm(total, generator=draw)[: client.settings.baseline.feddpa_samples]
        self.references = self.represent(client.task.collate(take(client.samples, chosen)))

    @torch.no_grad()
    def represent(self, samples: Samples) -> Tensor:
        """Return the representations of samples, each of length 1, shape (n, width)."""
        states = self.client.model.hidden_states(self.local, samples)
        mask = samples.get("attention_mask", torch.ones(states.shape[:2], device=states.device))
        summed = (states * mask.unsqueeze(-1)).sum(1)
        return torch.nn.functional.normalize(summed, dim=-1)

    def __call__(self, _: Tensors, samples: Samples) -> Tensor:
        """Return the logits of a batch."""
        similarity = self.represent(samples) @ self.references.T
        alpha = (self.scale * similarity.mean(-1)).clamp(0.0, 1.0)
        self.local_weights.append(alpha)
        weights = torch.stack([1 - alpha, alpha], dim=-1).unsqueeze(1)

        def logits_of(first: Adapter, second: Adapter, both: Tensor) -> Tensor:
            return run_pair(self.client.model, first, second, samples, lambda a, x: both)

        # The pair has the second adapter's head: each head once.
        own = logits_of(self.federated, self.local, weights)
        theirs = logits_of(self.local, self.federated, weights.flip(-1))
        share = alpha.view(-1, *[1] * (own.ndim - 1))
        return (1 - share) * theirs + share * own
