"""Local training only, and fine-tuning after the rounds."""

from dataclasses import replace

from potara_flwr.methods.base import single, total_steps
from potara_flwr.methods.client import Client
from potara_flwr.methods.outcome import Outcome
from potara_flwr.models.adapter import Adapter


def train_only_here(client: Client, received: Adapter) -> Outcome:
    """Train from the initial adapter by as many steps as the other methods take in all."""
    return _trained(client, client.model.initial, total_steps(client.settings))


def fine_tune(client: Client, received: Adapter) -> Outcome:
    """Train on from the federated adapter."""
    outcome = _trained(client, received, client.settings.local.steps)
    return replace(outcome, scores={"federated": client.score(received), **outcome.scores})


def _trained(client: Client, start: Adapter, steps: int) -> Outcome:
    adapter, seconds = client.train_alone(start, steps)
    return replace(single(client, adapter), seconds_local_training=seconds)
