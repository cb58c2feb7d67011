"""PF2LoRA: a common adapter, and a small one of each client's own next to it (arXiv 2503.03920).

From the paper (its abstract first-hand, the rest through public reviews that quote it): the model
of client k is W₀ + B A + D_k C_k; A and B, of rank r, are averaged, C_k and D_k, of a smaller rank
r̃ (r/2 or r/4 there), stay on the client; training is bilevel, where a step moves the client's own
adapter by SGD, and then the common one by AdamW.

Decided here, as the text was not at hand: the common adapter's gradient is that of the loss after
the step of the client's own adapter, taken through that step once,

    d/dx f(x, y − α ∇_y f(x, y)) = ∇_x f(x, y⁺) − α ∇²_xy f(x, y) ∇_y f(x, y⁺),

on one batch, with the second derivatives by central differences of gradients (as in DARTS: arXiv
1806.09055, eq. 8), which every model has; C_k begins as A does and D_k as zeros; both products have
the same scaling; the head belongs to the common adapter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from potara_flwr.core.seeds import derive_seed, generator
from potara_flwr.methods.client import Client
from potara_flwr.methods.outcome import Outcome, Update, single
from potara_flwr.methods.two_adapters import Companion, Tensors, stack
from potara_flwr.models.adapter import Adapter, lora_pairs
from potara_flwr.models.lora import device_of
from potara_flwr.tasks.base import Samples
from potara_flwr.training.local_steps import Score, check_loss, fork_rng, on_device, plain_descent

OWN = "own"
DISTANCE = 1e-2
"""Of a central difference, in the client's own adapter, from its middle to each side."""


def train_two_levels(client: Client, received: Adapter, server_round: int) -> Update:
    """In every step train the client's own adapter, and then the common one through it."""
    levels = TwoLevels(client, server_round)
    update = Update(*client.train_in_round(received, server_round, descent=levels))
    client.personal[OWN] = {name: tensor.cpu() for name, tensor in levels.own.items()}
    client.steps += levels.taken
    return update


class TwoLevels:
    """The steps of a client's own adapter, each before a step of the common one."""

    def __init__(self, client: Client, server_round: int) -> None:
        self.device = device_of(client.model.module)
        self.own = on_device(own_adapter(client), self.device)
        self.rate = client.settings.baseline.pf2lora_rate
        self.descend = plain_descent(Companion(client.model, _both), client.task)
        self.who = f"client {client.data.client}, round {server_round}, its own adapter"
        self.seed = derive_seed(client.settings.seed, "levels", server_round, client.data.client)
        self.cure = f"baseline.pf2lora-rate (now {self.rate:g}) or train.learning-rate"
        self.taken = 0
        """Steps of the own adapter in this round."""

    def __call__(self, common: Adapter, batch: Sequence[Samples]) -> float:
        """Take the own adapter's step; give the common one its gradients through it."""
        _, _, slope = self._gradients(common, self.own, batch)
        after = _moved(self.own, slope, -self.rate)
        loss, gradients, following = self._gradients(common, after, batch)
        check_loss(loss, self.who, f"step {self.taken + 1}", self.cure)
        norm = math.sqrt(float(sum(part.double().square().sum() for part in following.values())))
        if norm and self.rate:
            distance = DISTANCE / norm
            beyond, short = (
                self._gradients(common, _moved(self.own, following, by), batch)[1]
                for by in (distance, -distance)
            )
            for name, gradient in gradients.items():
                second = (beyond[name] - short[name]) / (2 * distance)
                gradients[name] = gradient - self.rate * second
        for name, tensor in common.items():
            tensor.grad = gradients[name]
        self.own = after
        self.taken += 1
        return loss

    def _gradients(
        self, common: Tensors, own: Tensors, batch: Sequence[Samples]
    ) -> tuple[float, Adapter, Adapter]:
        """Return the loss of a batch and its gradients with respect to both adapters. All that are
        taken in a step see one dropout, of which their differences must be free.
        """
        tensors = {**common, **{f"{OWN}.{name}": tensor for name, tensor in own.items()}}
        leaves = {name: at.detach().clone().requires_grad_() for name, at in tensors.items()}
        with fork_rng(self.device):
            torch.manual_seed(derive_seed(self.seed, self.taken))
            loss = float(self.descend(leaves, batch))
        gradients: Adapter = {}
        for name, leaf in leaves.items():
            assert leaf.grad is not None
            gradients[name] = leaf.grad
        first = {name: gradients[name] for name in common}
        return loss, first, {name: gradients[f"{OWN}.{name}"] for name in own}


def _both(tensors: Tensors, _: Tensors) -> AbstractContextManager[Adapter]:
    """Give the stack of a common adapter and the one of the client's own among the same tensors."""
    prefix = f"{OWN}."
    own = {name.removeprefix(prefix): at for name, at in tensors.items() if name.startswith(prefix)}
    common = {name: at for name, at in tensors.items() if not name.startswith(prefix)}
    return nullcontext(stack(own, common))


def _moved(adapter: Tensors, direction: Tensors, by: float) -> Adapter:
    return {name: tensor + by * direction[name] for name, tensor in adapter.items()}


def own_adapter(client: Client) -> Adapter:
    """Return the client's own adapter, without a head; at first C is drawn as peft draws A,
    U(−1/√in, 1/√in), and D is 0.
    """
    if OWN in client.personal:
        return client.personal[OWN]
    draw = generator(client.settings.seed, "own adapter")
    own = {}
    for a, b in lora_pairs(client.model.initial):
        first, second = client.model.initial[a], client.model.initial[b]
        rank = max(1, round(client.settings.baseline.pf2lora_share * first.shape[0]))
        uniform: Tensor = 2 * torch.rand(rank, *first.shape[1:], generator=draw) - 1
        own[a] = uniform / first[0].numel() ** 0.5
        own[b] = torch.zeros(second.shape[0], rank, *second.shape[2:])
    return own


def both(client: Client, received: Adapter) -> Adapter:
    """Return the one adapter, of rank r + r̃, that has the updates of the common adapter and of the
    client's own.
    """
    return stack(own_adapter(client), received)


def score_both(client: Client, received: Adapter) -> Score:
    """Score the common adapter that was received together with the client's own."""
    return client.score(both(client, received))


def keep_both(client: Client, received: Adapter) -> Outcome:
    """End with the last common adapter and the client's own, as one."""
    return single(client, both(client, received), federated=client.score(received))
