"""What went over the wire, and what did not: bytes, refusals, absences."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from logging import WARNING
from typing import Any

from flwr.supercore import log

from potara_flwr.core.errors import one_line
from potara_flwr.core.many import named

KINDS = ("describe", "train", "evaluate", "personalize", "state")
"""What a message can ask of a client, in the order of a round; last, what a client has lost."""


@dataclass
class Exchange:
    """One message to a node and its reply. ``round`` is 0 before the rounds, None after them."""

    node: int
    round: int | None
    kind: str
    bytes_down: int
    bytes_up: int = 0


@dataclass
class Absence:
    """A client whose reply was refused, or who sent none."""

    client: int | None
    """None for a node that is no client."""
    round: int | None
    kind: str
    reason: str


@dataclass
class Ledger:
    """What went over the wire, and what did not."""

    clients: dict[int, int] = field(default_factory=dict)
    """Node id → client, of every client that takes part."""
    names: Sequence[str] = ()
    """The clients' names, in order, where they have some."""
    exchanges: list[Exchange] = field(default_factory=list)
    refused: list[Absence] = field(default_factory=list)
    missing: list[Absence] = field(default_factory=list)
    earlier: list[dict[str, Any]] = field(default_factory=list)
    """Messages of earlier attempts to finish the run, as they stand in ``results.json``."""

    def go_on(self, stored: Mapping[str, Any], concerned: set[int] | None = None) -> None:
        """Put what earlier attempts wrote down (:meth:`to_json`) before what this one did.

        Clients that were gathered before are not counted again, nor is who was missing already, nor
        who is missing now without being ``concerned``.
        """
        self.earlier = list(stored["communication"]["messages"])
        described = {item["client"] for item in self.earlier if item["kind"] == "describe"}
        self.exchanges = [
            item for item in self.exchanges if self.clients.get(item.node) not in described
        ]
        for absences, before in (
            (self.refused, stored["refused"]),
            (self.missing, stored["missing"]),
        ):
            fields = Absence.__dataclass_fields__
            old = [Absence(**{name: item[name] for name in fields}) for item in before]
            known = {(item.client, item.round, item.kind) for item in old}
            absences[:] = old + [
                item
                for item in absences
                if (item.client, item.round, item.kind) not in known
                and (concerned is None or item.client in concerned)
            ]

    def refuse(self, client: int | None, server_round: int | None, kind: str, reason: str) -> None:
        """Write down, and log, that a client's reply is not used."""
        self._absent(self.refused, "refused", Absence(client, server_round, kind, reason))

    def miss(self, client: int | None, server_round: int | None, kind: str, reason: str) -> None:
        """Write down, and log, that a client did not take part."""
        self._absent(self.missing, "missing", Absence(client, server_round, kind, reason))

    def bytes(self) -> tuple[int, int]:
        """Return all bytes (down, up) so far."""
        sizes = [(exchange.bytes_down, exchange.bytes_up) for exchange in self.exchanges]
        sizes += [(message["bytes_down"], message["bytes_up"]) for message in self.earlier]
        return sum(down for down, _ in sizes), sum(up for _, up in sizes)

    def absent(self, server_round: int | None, kind: str) -> str:
        """Return who was refused or missing in one phase, and why, in one line."""
        return named(
            [
                f"{self.who(item.client)}: {item.reason}"
                for item in [*_in_order(self.refused), *_in_order(self.missing)]
                if (item.round, item.kind) == (server_round, kind)
            ],
            "; ",
        )

    def to_json(self) -> dict[str, Any]:
        """Return the parts of ``results.json`` that tell of communication.

        All stands in the order of rounds, kinds and clients, whatever the order of arrival;
        messages to nodes that are no client are left out.
        """
        these = [
            {
                "round": exchange.round,
                "client": self.clients[exchange.node],
                "kind": exchange.kind,
                "bytes_down": exchange.bytes_down,
                "bytes_up": exchange.bytes_up,
            }
            for exchange in self.exchanges
            if exchange.node in self.clients
        ]
        messages = sorted(
            [*self.earlier, *these],
            key=lambda message: _moment(message["round"], message["kind"], message["client"]),
        )
        return {
            "communication": {
                "bytes_down": sum(message["bytes_down"] for message in messages),
                "bytes_up": sum(message["bytes_up"] for message in messages),
                "messages": messages,
            },
            "refused": [self._named(absence) for absence in _in_order(self.refused)],
            "missing": [self._named(absence) for absence in _in_order(self.missing)],
        }

    def who(self, client: int | None) -> str:
        """Name a client in a line for people."""
        if client is None:
            return "a node that is no client"
        name = self._name(client)
        return f"client {client} ({name})" if name else f"client {client}"

    def _name(self, client: int | None) -> str:
        """Return a client's name, empty where it has none."""
        return self.names[client] if client is not None and client < len(self.names) else ""

    def _named(self, absence: Absence) -> dict[str, Any]:
        name = self._name(absence.client)
        return {"client": absence.client, **({"name": name} if name else {})} | asdict(absence)

    def _absent(self, absences: list[Absence], word: str, absence: Absence) -> None:
        where = "" if not absence.round else f", round {absence.round}"
        # A client says who it is itself; here that stands before the reason already.
        absence.reason = one_line(absence.reason)
        for itself in (f"client {absence.client}{where}: ", f"client {absence.client}: "):
            absence.reason = absence.reason.removeprefix(itself)
        log(WARNING, "%s: %s, %s%s: %s", word, self.who(absence.client), absence.kind, where,
            absence.reason)  # fmt: skip
        absences.append(absence)


def _in_order(absences: Iterable[Absence]) -> list[Absence]:
    """Return absences in the order of a run's messages; those of nodes that are no client last."""
    return sorted(absences, key=lambda item: _moment(item.round, item.kind, item.client))


def _moment(server_round: int | None, kind: str, client: int | None) -> tuple[float, int, float]:
    """Return the place of a message in a run."""
    return (
        math.inf if server_round is None else server_round,
        KINDS.index(kind),
        math.inf if client is None else client,
    )
