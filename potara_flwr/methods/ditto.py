"""Ditto: a personal adapter of each client, held near the federated one."""

from potara_flwr.methods.client import Client
from potara_flwr.methods.outcome import Outcome, Update, single
from potara_flwr.models.adapter import Adapter
from potara_flwr.training.local_steps import Proximal

PERSONAL = "personal"


def train_both(client: Client, received: Adapter, server_round: int) -> Update:
    """Train the federated adapter w as FedIT does, and then the personal adapter v with
    μ/2 · ‖v − w_received‖² added to the loss (arXiv 2012.04221, algorithm 1).
    """
    update = Update(*client.train_in_round(received, server_round))
    client.personal[PERSONAL], _ = client.train_in_round(
        personal(client),
        server_round,
        stream="personal round",
        proximal=Proximal(client.settings.baseline.ditto_mu, received),
    )
    return update


def personal(client: Client) -> Adapter:
    """Return the personal adapter, the initial one at first."""
    return client.personal.get(PERSONAL, client.model.initial)


def keep_personal(client: Client, received: Adapter) -> Outcome:
    """End with the personal adapter."""
    return single(client, personal(client), federated=client.score(received))
