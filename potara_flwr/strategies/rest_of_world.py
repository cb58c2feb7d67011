"""FedALT's server side: each client is sent the mean of the others' adapters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flwr.app import ArrayRecord

from potara_flwr.core.arrays import Arrays, below, members, within
from potara_flwr.messages.transport import values_of
from potara_flwr.strategies.lora_averaging import EncodedAdapter, LoraAveraging
from potara_flwr.strategies.updates import RoundUpdates


class RestOfWorld(LoraAveraging):
    """Send each client the plain mean of the other clients' latest adapters (arXiv 2503.11880).

    As long as no other client has sent one, that is the initial adapter.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.latest: dict[int, Arrays] = {}
        """Client → the adapter it sent last."""
        self._initial: Arrays | None = None
        self._to_clients: dict[int, EncodedAdapter] = {}

    @property
    def before(self) -> Arrays:
        """The initial adapter, which clients were sent before others had sent one."""
        assert self._initial is not None
        return self._initial

    def sent_to(self, client: int, arrays: ArrayRecord) -> EncodedAdapter:
        """Return the mean of the others' adapters, as it is sent."""
        if self._initial is None:
            self._initial = values_of(arrays)
        if client not in self._to_clients:
            others = [self.latest[other] for other in sorted(self.latest) if other != client]
            values = self.average(others, [1.0] * len(others))[0] if others else self._initial
            self._to_clients[client] = self.part(client, self.encode(client, values))
        return self._to_clients[client]

    def state(self, arrays: ArrayRecord) -> Arrays:
        """Return what is carried from one round to the next, the clients' adapters among it."""
        state = super().state(arrays) | within("initial", self._initial or {})
        for client, adapter in self.latest.items():
            state |= within(f"latest/{client}", adapter)
        for client, sent in self._to_clients.items():
            state |= within(f"sent-to/{client}", values_of(sent.record))
        return state

    def restore(self, state: Arrays, arrays: ArrayRecord) -> None:
        """Go on from a :meth:`state` that was taken with these ``arrays``."""
        super().restore(state, arrays)
        self._initial = below("initial", state) or None
        for client, adapter in members(below("latest", state)).items():
            self.latest[int(client)] = adapter
        for client, sent in members(below("sent-to", state)).items():
            self._to_clients[int(client)] = self._as_sent(sent)

    def combine(
        self, updates: RoundUpdates, weights: Sequence[float]
    ) -> tuple[Arrays, float | None]:
        """Keep every client's adapter; return the mean of all, which nobody is sent."""
        self.latest |= {client: dict(update) for client, update in updates.items()}
        self._to_clients.clear()
        return super().combine(updates, weights)
