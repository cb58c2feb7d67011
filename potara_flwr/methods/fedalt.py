"""FedALT: an individual adapter next to the rest of the world's, mixed token by token."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor

from potara_flwr.core.seeds import generator
from potara_flwr.methods.client import Client
from potara_flwr.methods.outcome import Outcome, Update, report_of
from potara_flwr.methods.two_adapters import Companion, Tensors, weighed
from potara_flwr.models.adapter import Adapter, lora_pairs
from potara_flwr.training.local_steps import Score

INDIVIDUAL, MIXER = "individual", "mixer"


def train_individual(client: Client, received: Adapter, server_round: int) -> Update:
    """Train the individual adapter, the head and the mixer; the rest-of-world adapter, which is
    what was received, is frozen (arXiv 2503.11880).
    """
    trained, loss = client.train_in_round(
        individual(client) | mixer(client), server_round, model=mixed(client, received)
    )
    client.personal[INDIVIDUAL] = {name: trained[name] for name in client.model.initial}
    client.personal[MIXER] = {name: trained[name] for name in mixer(client)}
    return Update(client.personal[INDIVIDUAL], loss)


def individual(client: Client) -> Adapter:
    """Return the individual adapter, the initial one at first."""
    return client.personal.get(INDIVIDUAL, client.model.initial)


def mixer(client: Client) -> Adapter:
    """Return the mixer of every adapted module by the name of its A, shape (2, in): row 0 is for
    the rest of the world, row 1 for the individual adapter. At first it is drawn as a linear layer
    is, U(−1/√in, 1/√in).
    """
    if MIXER in client.personal:
        return client.personal[MIXER]
    draw = generator(client.settings.seed, "mixer")
    drawn = {}
    for a, _ in lora_pairs(client.model.initial):
        width = client.model.initial[a].shape[1]
        drawn[f"{MIXER}.{a}"] = (2 * torch.rand(2, width, generator=draw) - 1) / width**0.5
    return drawn


def mixed(client: Client, rest_of_world: Adapter) -> Companion:
    """Return the model as a function of the individual adapter and the mixer together.

    A token x of a module weighs the two updates by softmax(G x), G being the module's mixer. The
    mixer sees what A sees, in training after dropout.
    """

    def enter(tensors: Tensors, _: Tensors) -> AbstractContextManager[Adapter]:
        own = {name: tensors[name] for name in client.model.initial}

        def weigh(a: str, inputs: Tensor) -> Tensor:
            return (inputs @ tensors[f"{MIXER}.{a}"].T).softmax(-1)

        return weighed(client.model, rest_of_world, own, weigh)

    return Companion(client.model, enter)


def score_mixed(client: Client, received: Adapter) -> Score:
    """Score the mix with the rest-of-world adapter that was received."""
    return client.score(individual(client) | mixer(client), mixed(client, received))


def keep_mixed(client: Client, received: Adapter) -> Outcome:
    """End with the individual adapter, the mixer, and the last rest-of-world adapter."""
    scores = {
        "initial": client.score(client.model.initial),
        "local": client.score(individual(client)),
        "personalized": score_mixed(client, received),
    }
    return Outcome(
        {"local": individual(client), "rest-of-world": received},
        report_of(client, scores),
        {MIXER: mixer(client)},
    )
