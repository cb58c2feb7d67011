"""Every message between server and clients: counted, in a fixed order, none lost in silence.

:class:`MeteredGrid` stands between a strategy and Flower's grid. It measures the bytes of each
message and reply, sorts the replies by client so that nothing depends on their order of arrival,
and writes down who did not answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from logging import WARNING
from typing import Any

from flwr.app import Message, RecordDict
from flwr.app.error import Error
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore import log
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.run import Run
from google.protobuf.message import DecodeError

from potara_flwr.errors import one_line

POLL_SECONDS = 0.1
MALFORMED = (
    ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, DecodeError,
)  # fmt: skip
"""What Flower and protobuf raise on bytes and numbers that are not what they should be."""
KINDS = ("describe", "train", "evaluate", "personalize")
"""What a message can ask of a client, in the order of a round."""


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
        return "; ".join(
            f"{self.who(item.client)}: {item.reason}"
            for item in [*self.refused, *self.missing]
            if (item.round, item.kind) == (server_round, kind)
        )

    def to_json(self) -> dict[str, Any]:
        """Return the parts of ``results.json`` that tell of communication.

        Messages stand in the order of rounds, kinds and clients, whatever the order of arrival;
        those to nodes that are no client are left out.
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
            key=lambda message: (
                message["round"] is None, message["round"], KINDS.index(message["kind"]),
                message["client"],
            ),
        )  # fmt: skip
        return {
            "communication": {
                "bytes_down": sum(message["bytes_down"] for message in messages),
                "bytes_up": sum(message["bytes_up"] for message in messages),
                "messages": messages,
            },
            "refused": [self._named(absence) for absence in self.refused],
            "missing": [self._named(absence) for absence in self.missing],
        }

    def who(self, client: int | None) -> str:
        """Name a client in a line for people."""
        if client is None:
            return "a node that is no client"
        named = client < len(self.names)
        return f"client {client} ({self.names[client]})" if named else f"client {client}"

    def _named(self, absence: Absence) -> dict[str, Any]:
        named = absence.client is not None and absence.client < len(self.names)
        name = {"name": self.names[absence.client or 0]} if named else {}
        return {"client": absence.client, **name} | asdict(absence)

    def _absent(self, absences: list[Absence], word: str, absence: Absence) -> None:
        where = "" if not absence.round else f", round {absence.round}"
        # A client says who it is itself; here that stands before the reason already.
        absence.reason = one_line(absence.reason)
        for itself in (f"client {absence.client}{where}: ", f"client {absence.client}: "):
            absence.reason = absence.reason.removeprefix(itself)
        log(WARNING, "%s: %s, %s%s: %s", word, self.who(absence.client), absence.kind, where,
            absence.reason)  # fmt: skip
        absences.append(absence)


def _unreadable(message: Message, error: Exception) -> Message:
    """Return the error reply that stands for one that cannot be read."""
    reason = f"its reply cannot be read: {type(error).__name__}: {error}"
    return Message(Error(ErrorCode.UNKNOWN, reason), reply_to=message)


def content_bytes(content: RecordDict) -> int:
    """Return the size of a message's content as Flower serializes it.

    Flower sends a content as a tree of objects and equal objects once; the few hundred bytes of a
    message's metadata (ids and times, of no fixed length) are not counted.
    """
    return sum(len(item.deflate()) for item in get_all_nested_objects(content).values())


def round_of(message: Message) -> int | None:
    """Return the round a message belongs to (its Flower group id), None after the rounds."""
    return int(message.metadata.group_id) if message.metadata.group_id else None


def kind_of(message: Message) -> str:
    """Return what a message asks for: describe, train, evaluate or personalize."""
    return message.metadata.message_type.rpartition(".")[2]


class MeteredGrid(Grid):
    """A grid that measures, orders and reports what goes through another one.

    Parameters
    ----------
    grid : Grid
        Flower's grid, or the in-process one.
    ledger : Ledger
        Where exchanges and missing replies are written down.
    """

    def __init__(self, grid: Grid, ledger: Ledger) -> None:
        self.inner = grid
        self.ledger = ledger
        self.clients = ledger.clients
        self.on_reply: Callable[[Message], None] = lambda reply: None
        self._alone = False

    def set_run(self, run: Run) -> None:
        """Set the run of the inner grid."""
        self.inner.set_run(run)

    @property
    def run(self) -> Run:
        """The inner grid's run."""
        return self.inner.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create a message."""
        return self.inner.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of the connected nodes."""
        return self.inner.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages; returns their ids, in the same order."""
        return self.inner.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that have arrived."""
        return self.inner.pull_messages(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Send messages and wait for the replies, at most ``timeout`` seconds. That is how long the
        messages live, too: nobody begins, or goes on with, work that comes too late.

        Returns
        -------
        list of Message
            The replies, errors among them, sorted by client.
        """
        sent = sorted(messages, key=lambda message: self._order(message.metadata.dst_node_id))
        # The clients of a round are sent the same content: it is measured once.
        contents = {id(message.content): message.content for message in sent}
        sizes = {key: content_bytes(content) for key, content in contents.items()}
        exchanges = {
            message.metadata.dst_node_id: Exchange(
                message.metadata.dst_node_id,
                round_of(message),
                kind_of(message),
                sizes[id(message.content)],
            )
            for message in sent
        }
        self.ledger.exchanges += exchanges.values()
        if timeout is not None:
            for message in sent:
                message.metadata.ttl = timeout
        pushed = zip(self.push_messages(sent), sent, strict=False)
        waiting = {message_id: message for message_id, message in pushed if message_id}
        replies: dict[int, Message] = {}
        deadline = time.monotonic() + (float("inf") if timeout is None else timeout)
        while waiting and time.monotonic() < deadline:
            arrived = self._pull(waiting)
            for reply in arrived:
                answered = reply.metadata.reply_to_message_id
                if answered not in waiting:
                    self._refuse_unasked(reply, exchanges)
                    continue
                message = waiting.pop(answered)
                exchange = exchanges[message.metadata.dst_node_id]
                exchange.bytes_up, replies[exchange.node] = self._read(reply, message)
                self.on_reply(replies[exchange.node])
            if not arrived:
                time.sleep(POLL_SECONDS)
        for node, exchange in exchanges.items():
            if node in self.clients and node not in replies:
                self.ledger.miss(
                    self.clients[node], exchange.round, exchange.kind, f"no reply in {timeout:g} s"
                )
        return [replies[node] for node in sorted(replies, key=self._order)]

    def _pull(self, waiting: Mapping[str, Message]) -> list[Message]:
        """Return the replies that have arrived.

        Flower unpacks all replies of a request or, if one of them is malformed, raises and loses
        them all. From then on each is asked for alone: the malformed one is an error reply, and for
        those that were lost Flower itself has one.
        """
        arrived: list[Message] = []
        for ids in [[message_id] for message_id in waiting] if self._alone else [list(waiting)]:
            try:
                arrived += self.pull_messages(ids)
            except MALFORMED as error:
                self._alone = True
                if len(ids) == 1:
                    arrived.append(_unreadable(waiting[ids[0]], error))
        return arrived

    def _read(self, reply: Message, message: Message) -> tuple[int, Message]:
        """Return the bytes of a reply's content, and the reply, or an error reply in its place
        where it does not come from the node that was asked.
        """
        node, source = message.metadata.dst_node_id, reply.metadata.src_node_id
        if reply.has_error():  # Flower answers for a node whose reply it has lost
            return 0, reply if source == node else Message(reply.error, reply_to=message)
        try:
            size = content_bytes(reply.content)
        except MALFORMED as error:
            return 0, _unreadable(message, error)
        if source != node:
            error_reply = Error(ErrorCode.UNKNOWN, f"node {source} has replied in its place")
            return size, Message(error_reply, reply_to=message)
        return size, reply

    def _refuse_unasked(self, reply: Message, exchanges: Mapping[int, Exchange]) -> None:
        """Write down a reply that nobody is waiting for: to another message, or a second one."""
        node = reply.metadata.src_node_id
        exchange = exchanges.get(node, next(iter(exchanges.values())))
        reason = "has replied twice, or to a message that it was not sent"
        client = self.clients.get(node)
        self.ledger.refuse(client, exchange.round, exchange.kind, f"node {node} {reason}")

    def _order(self, node: int) -> int:
        return self.clients.get(node, node)
