"""FFA-LoRA: A stays as it was made, B is averaged, and so the average is exact."""

from potara_flwr.methods.client import Client
from potara_flwr.methods.outcome import Update
from potara_flwr.models.adapter import Adapter, kind_of


def train_b(client: Client, received: Adapter, server_round: int) -> Update:
    """Train B and the head; A is frozen at its initial values, which every client has
    (arXiv 2403.12313).
    """
    frozen = [name for name in received if kind_of(name) == "A"]
    return Update(*client.train_in_round(received, server_round, frozen=frozen))
