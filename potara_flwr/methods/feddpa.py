"""FedDPA: a federated and a local adapter, weighted for every sample by how near it is to the
client's own data (arXiv 2403.19211).
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from potara_flwr.core.seeds import generator
from potara_flwr.merging.segment import segment_between
from potara_flwr.methods.client import Client
from potara_flwr.methods.outcome import Outcome, Update, report_of
from potara_flwr.methods.two_adapters import Companion, Tensors, beside, weighed
from potara_flwr.models.adapter import Adapter
from potara_flwr.tasks.base import num_samples, take

LOCAL = "local"
IN_TRAINING = 0.5
"""Weight of each adapter while the local one is trained."""


def train_local_then_federated(client: Client, received: Adapter, server_round: int) -> Update:
    """FedDPA-T: train the local adapter next to the frozen federated one, and then the federated
    one as FedIT does.
    """
    client.personal[LOCAL], _ = client.train_in_round(
        client.personal.get(LOCAL, received),
        server_round,
        stream="local round",
        model=next_to(client, received),
    )
    return Update(*client.train_in_round(received, server_round))


def next_to(client: Client, federated: Adapter) -> Companion:
    """Return the model as a function of the local adapter, with the frozen federated one."""

    def enter(local: Tensors, _: Tensors) -> AbstractContextManager[Adapter]:
        frozen = beside(federated, local)
        return nullcontext(segment_between(frozen, dict(local), "delta").at(IN_TRAINING))

    return Companion(client.model, enter)


def keep_pair(client: Client, received: Adapter, local_training: float | None = None) -> Outcome:
    """End with the last federated adapter and the local one (FedDPA-T)."""
    local = client.personal.get(LOCAL, received)
    began = time.perf_counter()
    by_likeness = ByLikeness(client, received, local)
    seconds = time.perf_counter() - began
    scores = {
        "initial": client.score(client.model.initial),
        "federated": client.score(received),
        "local": client.score(local),
        "personalized": client.score(local, Companion(client.model, by_likeness)),
    }
    weight = 1 - torch.cat(by_likeness.local_weights).mean().item()
    report = report_of(
        client, scores, weight=weight, local_training=local_training, weight_seconds=seconds
    )
    return Outcome({"local": local}, report)


def train_local_after(client: Client, received: Adapter) -> Outcome:
    """FedDPA-F: train the local adapter after the rounds, from the federated one and next to it."""
    steps = client.settings.local.steps
    client.personal[LOCAL], seconds = client.train_alone(
        received, steps, model=next_to(client, received)
    )
    return keep_pair(client, received, local_training=seconds)


class ByLikeness:
    """Weighs both adapters, each sample's local weight α being the mean cosine similarity of its
    representation to those of a few of the client's training samples, times a scale.

    A representation is the mean of the last hidden states that the local adapter gives to the
    tokens of an input, without those of an answer. The update is (1 − α) ΔW_f + α ΔW_l.
    """

    def __init__(self, client: Client, federated: Adapter, local: Adapter) -> None:
        self.model, self.federated, self.local = client.model, federated, local
        self.scale = client.settings.baseline.feddpa_scale
        self.local_weights: list[Tensor] = []
        """α of every sample that was run, (n,) a batch."""
        draw = generator(client.settings.seed, "similar samples", client.data.client)
        chosen = torch.randperm(num_samples(client.samples), generator=draw)
        chosen = chosen[: client.settings.baseline.feddpa_samples]
        references = client.task.collate(take(client.samples, chosen))
        device = next(client.model.module.parameters()).device
        self.references = self.represent({name: at.to(device) for name, at in references.items()})

    @torch.no_grad()
    def represent(self, samples: Tensors) -> Tensor:
        """Return the representations of samples, each of length 1, shape (n, width)."""
        states = self.model.hidden_states(self.local, samples)
        rows, tokens, width = states.shape
        mask = samples.get("attention_mask", torch.ones(rows, tokens)).to(states)
        if "logits_to_keep" in samples:  # the first of these is the last token of the input
            last = tokens - int(samples["logits_to_keep"])
            mask = mask * (torch.arange(tokens, device=mask.device) <= last).to(states)
        summed = (states * mask.unsqueeze(-1)).sum(1)
        # A sample may have several rows, one after the other.
        n = len(samples["labels"]) if "labels" in samples else rows
        return torch.nn.functional.normalize(summed.view(n, -1, width).sum(1), dim=-1)

    def __call__(self, _: Tensors, samples: Tensors) -> AbstractContextManager[Adapter]:
        """Give the stack of both adapters, weighed for these samples."""
        similarity = self.represent(samples) @ self.references.T
        alpha = (self.scale * similarity.mean(-1)).clamp(0.0, 1.0)
        self.local_weights.append(alpha.cpu())
        weights = torch.stack([1 - alpha, alpha], dim=-1)

        def weigh(_: str, inputs: Tensor) -> Tensor:
            of_rows = weights.repeat_interleave(inputs.shape[0] // len(weights), dim=0)
            return of_rows.view(-1, *[1] * (inputs.ndim - 2), 2).to(inputs)

        return weighed(self.model, self.federated, self.local, weigh, heads=True)
