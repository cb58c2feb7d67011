"""FedALT's server side: each client is sent the mean of the others' adapters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flwr.app import ArrayRecord, Message, MetricRecord

from potara_flwr.strategies.lora_averaging import LoraAveraging, Sent, values_of
from potara_flwr.transport import Arrays


class RestOfWorld(LoraAveraging):
    """Send each client the plain mean of the other clients' latest adapters (arXiv 2503.11880).

    As long as no other client has sent one, that is the initial adapter.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.latest: dict[int, Arrays] = {}
        """Client → the adapter it sent last."""
        self._initial: Arrays | None = None
        self._to_clients: dict[int, Sent] = {}

    def sent_to(self, client: int, arrays: ArrayRecord) -> Sent:
        """Return the mean of the others' adapters, as it is sent."""
        if self._initial is None:
            self._initial = values_of(arrays)
        if client not in self._to_clients:
            others = [self.latest[other] for other in sorted(self.latest) if other != client]
            values = self.average(others, [1.0] * len(others))[0] if others else self._initial
            self._to_clients[client] = self.encode(client, values)
        return self._to_clients[client]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord, MetricRecord]:
        """Keep every client's adapter; also return the mean of all, which nobody is sent."""
        averaged = super().aggregate_train(server_round, replies)
        self.latest |= self.updates
        self._to_clients.clear()
        return averaged
