"""FedProx: local steps are held near what was received."""

from potara_flwr.methods.client import Client
from potara_flwr.methods.outcome import Update
from potara_flwr.models.adapter import Adapter
from potara_flwr.training.local_steps import Proximal


def train_near_received(client: Client, received: Adapter, server_round: int) -> Update:
    """Train with μ/2 · ‖θ − θ_received‖² added to the loss (arXiv 1812.06127)."""
    proximal = Proximal(client.settings.baseline.fedprox_mu, received)
    return Update(*client.train_in_round(received, server_round, proximal=proximal))
