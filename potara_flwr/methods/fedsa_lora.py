"""FedSA-LoRA: A is averaged, B and the head are each client's own."""

from potara_flwr.methods.client import Client
from potara_flwr.methods.outcome import Outcome, Update, single
from potara_flwr.models.adapter import Adapter, kind_of
from potara_flwr.training.local_steps import Score

OWN = "own"


def train_with_own_b(client: Client, received: Adapter, server_round: int) -> Update:
    """Train everything from the received A and the client's own B and head (arXiv 2410.01463)."""
    adapter, loss = client.train_in_round(completed(client, received), server_round)
    client.personal[OWN] = {name: adapter[name] for name in adapter if kind_of(name) != "A"}
    return Update(adapter, loss)


def completed(client: Client, received: Adapter) -> Adapter:
    """Return the received A with the client's own B and head, initial ones at first."""
    return received | client.personal.get(OWN, {})


def score_completed(client: Client, received: Adapter) -> Score:
    """Score the client's own adapter."""
    return client.score(completed(client, received))


def keep_completed(client: Client, received: Adapter) -> Outcome:
    """End with the last A and the client's own B and head."""
    return single(client, completed(client, received))
