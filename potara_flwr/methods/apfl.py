"""APFL: a personal adapter, mixed with the federated one by a weight that is learned."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from potara_flwr.core.seeds import derive_seed
from potara_flwr.merging.segment import interpolate
from potara_flwr.methods.client import Client
from potara_flwr.methods.outcome import Outcome, Update, report_of
from potara_flwr.models.adapter import Adapter
from potara_flwr.models.lora import device_of
from potara_flwr.tasks.base import Samples
from potara_flwr.training.local_steps import (
    Learner,
    check_finite,
    check_loss,
    fork_rng,
    plain_descent,
)

PERSONAL, ALPHA = "personal", "alpha"


def train_beside(client: Client, received: Adapter, server_round: int) -> Update:
    """Train the federated adapter w as FedIT does and, step by step beside it, the personal adapter
    v and its weight α at their mix α v + (1 − α) w (arXiv 2003.13461, algorithm 1).
    """
    beside = Beside(client, server_round)
    update = Update(*client.train_in_round(received, server_round, descent=beside))
    check_finite(beside.learner.adapter, beside.who, beside.taken, beside.cure)
    client.personal[PERSONAL] = beside.learner.adapter
    client.personal[ALPHA] = {ALPHA: torch.tensor(beside.alpha, dtype=torch.float64)}
    client.steps += beside.taken
    return update


class Beside:
    """The steps of v and α, each before a step of w, on the same batch."""

    def __init__(self, client: Client, server_round: int) -> None:
        self.device = device_of(client.model.module)
        self.learner = Learner(personal(client), client.settings.train, self.device)
        self.alpha, self.rate = weight_of(client), client.settings.baseline.apfl_rate
        self.descend = plain_descent(client.model, client.task)
        self.course = client.course_of(server_round)
        self.who = f"client {client.data.client}, round {server_round}, personal adapter"
        self.seed = derive_seed(client.settings.seed, "mix", server_round, client.data.client)
        self.cure = f"train.learning-rate (now {client.settings.train.learning_rate:g})"
        self.taken = 0
        """Steps of v in this round."""

    def __call__(self, federated: Adapter, batch: Sequence[Samples]) -> Tensor | float:
        """Take v's step, in the first step of a round α's, and give w the gradients of its loss."""
        with fork_rng(self.device):  # The random numbers of w stay those of FedIT.
            torch.manual_seed(derive_seed(self.seed, self.taken))
            slope = self._gradients(federated, batch)
        self.learner.step(self.course.factor(self.taken))
        if self.taken == 0:
            self.alpha = min(max(self.alpha - self.rate * slope, 0.0), 1.0)
        self.taken += 1
        return self.descend(federated, batch)

    def _gradients(self, federated: Adapter, batch: Sequence[Samples]) -> float:
        """Give v the gradients α ∇f(mix) of the loss at the mix; return α's own, ⟨v − w, ∇f(mix)⟩
        (the paper's section 4.1).
        """
        own = {name: tensor.detach() for name, tensor in self.learner.tensors.items()}
        other = {name: tensor.detach() for name, tensor in federated.items()}
        mixed = {
            name: tensor.requires_grad_()
            for name, tensor in interpolate(own, other, self.alpha).items()
        }
        loss = float(self.descend(mixed, batch))
        check_loss(loss, self.who, f"step {self.taken + 1}", self.cure)
        slope = torch.zeros((), dtype=torch.float64, device=self.device)
        for name, tensor in self.learner.tensors.items():
            gradient = mixed[name].grad
            assert gradient is not None
            slope += ((own[name] - other[name]).double() * gradient.double()).sum()
            tensor.grad = self.alpha * gradient
        return slope.item()


def personal(client: Client) -> Adapter:
    """Return the personal adapter v, the initial one at first."""
    return client.personal.get(PERSONAL, client.model.initial)


def weight_of(client: Client) -> float:
    """Return α, the weight of the personal adapter."""
    kept = client.personal.get(ALPHA)
    return kept[ALPHA].item() if kept else client.settings.baseline.apfl_alpha


def keep_mix(client: Client, received: Adapter) -> Outcome:
    """End with the mix of the personal and the last federated adapter, factor by factor."""
    own, alpha = personal(client), weight_of(client)
    mixed = interpolate(own, received, alpha)
    scores = {
        "initial": client.score(client.model.initial),
        "federated": client.score(received),
        "local": client.score(own),
        "personalized": client.score(mixed),
    }
    return Outcome({"": mixed, "local": own}, report_of(client, scores, weight=1 - alpha))
