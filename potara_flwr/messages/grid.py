"""Every message between server and clients: counted, in a fixed order, none lost in silence.

:class:`MeteredGrid` stands between a strategy and Flower's grid. It measures the bytes of each
message and reply, yields the replies as they arrive or has them sorted by client, and writes down
who did not answer.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping

from flwr.app import Message, RecordDict
from flwr.app.error import Error
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.run import Run
from google.protobuf.message import DecodeError

from potara_flwr.messages.ledger import Exchange, Ledger

POLL_SECONDS = 0.1
MALFORMED = (
    ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, DecodeError,
)  # fmt: skip
"""What Flower and protobuf raise on bytes and numbers that are not what they should be."""


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


def message_round(message: Message) -> int | None:
    """Return the round a message belongs to (its Flower group id), None after the rounds."""
    return int(message.metadata.group_id) if message.metadata.group_id else None


def message_kind(message: Message) -> str:
    """Return what a message asks for: describe, train, evaluate or personalize."""
    return message.metadata.message_type.rpartition(".")[2]


class RunGrid(Grid):
    """What is the same in every grid of this package: the run, and what a message is."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def set_run(self, run: Run) -> None:
        """Set the run."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create a message."""
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)


class MeteredGrid(RunGrid):
    """A grid that measures, orders and reports what goes through another one.

    Parameters
    ----------
    grid : Grid
        Flower's grid, or the in-process one.
    ledger : Ledger
        Where exchanges and missing replies are written down.
    """

    def __init__(self, grid: Grid, ledger: Ledger) -> None:
        super().__init__(grid.run)
        self.inner = grid
        self.ledger = ledger
        self.clients = ledger.clients
        self._alone = False

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
        self,
        messages: Iterable[Message],
        *,
        timeout: float | None = None,
    ) -> list[Message]:
        """Send messages and wait for the replies; return them, sorted by client."""
        replies = self.replies(messages, timeout=timeout)
        return sorted(replies, key=lambda reply: self._order(reply.metadata.src_node_id))

    def replies(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Send messages and yield the replies as they arrive, errors among them, at most one of
        each node, for ``timeout`` seconds. That is how long the messages live, too: nobody begins,
        or goes on with, work that comes too late.

        Nothing is held here once it was yielded.
        """
        sent = sorted(messages, key=lambda message: self._order(message.metadata.dst_node_id))
        exchanges = self._exchanges(sent)
        self.ledger.exchanges += exchanges.values()
        if timeout is not None:
            for message in sent:
                message.metadata.ttl = timeout
        pushed = zip(self.push_messages(sent), sent, strict=False)
        waiting = {message_id: message for message_id, message in pushed if message_id}
        replied: set[int] = set()
        for reply in self._arriving(waiting, math.inf if timeout is None else timeout):
            asked = waiting.pop(reply.metadata.reply_to_message_id, None)
            if asked is None:
                self._refuse_unasked(reply, exchanges)
                continue
            node = asked.metadata.dst_node_id
            replied.add(node)
            exchanges[node].bytes_up, read = self._read(reply, asked)
            yield read
        for node, exchange in exchanges.items():
            if node in self.clients and node not in replied:
                self.ledger.miss(
                    self.clients[node], exchange.round, exchange.kind, f"no reply in {timeout:g} s"
                )

    def _exchanges(self, sent: Iterable[Message]) -> dict[int, Exchange]:
        """Return node id → what is written down of its message.

        The clients of a round are sent the same content: it is measured once.
        """
        sizes: dict[int, int] = {}
        exchanges = {}
        for message in sent:
            content, node = message.content, message.metadata.dst_node_id
            if id(content) not in sizes:
                sizes[id(content)] = content_bytes(content)
            exchanges[node] = Exchange(
                node, message_round(message), message_kind(message), sizes[id(content)]
            )
        return exchanges

    def _arriving(self, waiting: Mapping[str, Message], timeout: float) -> Iterator[Message]:
        """Yield replies as they arrive, until nothing is ``waiting`` or the time is over."""
        deadline = time.monotonic() + timeout
        while waiting and time.monotonic() < deadline:
            arrived = self._pull(waiting)
            yield from arrived
            if not arrived:
                time.sleep(POLL_SECONDS)

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
