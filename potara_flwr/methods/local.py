"""Local training only, and fine-tuning after the rounds."""

from potara_flwr.methods.base import total_steps
from potara_flwr.methods.client import Client
from potara_flwr.methods.outcome import Outcome, single
from potara_flwr.models.adapter import Adapter


def train_only_here(client: Client, received: Adapter) -> Outcome:
    """Train from the initial adapter by as many steps as the other methods take in all."""
    steps = total_steps(client.settings)
    adapter, seconds = client.train_alone(client.model.initial, steps)
    return single(client, adapter, local_training=seconds)


def fine_tune(client: Client, received: Adapter) -> Outcome:
    """Train on from the federated adapter."""
    adapter, seconds = client.train_alone(received, client.settings.local.steps)
    return single(client, adapter, local_training=seconds, federated=client.score(received))
