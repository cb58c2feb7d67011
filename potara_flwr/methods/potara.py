"""Potara: the merge of a federated and a local adapter, by the client's own samples."""

from potara_flwr.methods.client import Client
from potara_flwr.methods.outcome import Outcome
from potara_flwr.methods.personalization import personalize
from potara_flwr.models.adapter import Adapter


def merge_by_evidence(client: Client, received: Adapter) -> Outcome:
    """Train the local adapter, choose λ, merge (arXiv 2602.18658)."""
    found = personalize(
        client.model, client.task, client.data, received, client.settings, client.once
    )
    client.count(client.settings.local.steps, found.seconds_local_training)
    return Outcome(
        scores=found.scores,
        adapters={"": found.personalized, "local": found.local},
        weight=found.weight,
        merge=found,
        seconds_local_training=found.seconds_local_training,
        seconds_weight=found.seconds_weight,
    )
