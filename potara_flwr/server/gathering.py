"""Before the first round: wait for the nodes, learn who is who, leave out who cannot take part."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from logging import WARNING

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.supercore import log

from potara_flwr.core.errors import ReplyError, RunError, SettingsError, one_line
from potara_flwr.core.version import code_version
from potara_flwr.messages.grid import MeteredGrid
from potara_flwr.messages.reports import USER_ERROR, Description, unpack
from potara_flwr.settings.schema import Settings

POLL_SECONDS = 0.5
SAY_SECONDS = 10.0
"""How often a run that waits says for whom, and asks those anew that could not take part."""


def gather_clients(
    grid: MeteredGrid, settings: Settings, wanted: Collection[int] | None = None
) -> dict[int, Description]:
    """Wait for the SuperNodes, ask each which client it is, and fill in ``grid.clients``.

    Goes on once every expected client is there or has said why it cannot be, once Flower says
    there will be no more nodes, or after ``federation.connect-timeout`` seconds. Who is left out is
    logged and stands in the results. While too few clients can take part
    (``federation.min-reply-fraction``) it waits until the limit, asking anew those that were at
    fault: they may have been mended. Where only some are ``wanted``, nobody else is waited for, and
    one of them is enough.

    Returns
    -------
    dict
        Client → what it says of itself.

    Raises
    ------
    SettingsError
        A setting does not fit the clients' data, or a client runs other code.
    RunError
        Too few clients can take part.
    """
    roll = Roster(grid, settings, wanted)
    start = said = time.monotonic()
    while True:
        new = roll.ask()
        now = time.monotonic()
        # Who came while others were answering is asked still; who is asked anew holds up nobody.
        if roll.complete() or (not new and now - start > settings.federation.connect_timeout):
            break
        if now - said >= SAY_SECONDS:
            said = now
            limit = settings.federation.connect_timeout
            waited = f"{now - start:.0f} of at most {limit:g} s"
            log(WARNING, "waiting for %s (%s)", ", ".join(roll.absent()), waited)
            roll.forget_faults()
        time.sleep(POLL_SECONDS)
    roll.close()
    return roll.descriptions


@dataclass
class Roster:
    """Who is there, who cannot take part and why."""

    grid: MeteredGrid
    settings: Settings
    wanted: Collection[int] | None = None
    """The clients that are waited for; None is all."""
    descriptions: dict[int, Description] = field(default_factory=dict)
    faults: dict[int, str] = field(default_factory=dict)
    """Client → why it cannot take part, by its own word."""
    strangers: list[str] = field(default_factory=list)
    """What came from nodes of which nobody knows which client they are."""

    def __post_init__(self) -> None:
        self.grid.ledger.names = self.names = self.settings.federation.names
        self._known: set[int] = set()
        self._faulty: set[int] = set()
        self._forgotten: set[int] = set()
        self._announced = self.settings.data.num_clients
        everybody = range(self.settings.data.num_clients)
        self._awaited = set(everybody if self.wanted is None else self.wanted)

    @property
    def expected(self) -> int:
        """How many clients could be there: all that are wanted, or as many as there are nodes."""
        return min(self._announced, len(self._awaited))

    @property
    def needed(self) -> int:
        """How many clients must be there."""
        if self.wanted is not None:
            return 1
        return math.ceil(self.settings.federation.min_reply_fraction * self.expected)

    def ask(self) -> set[int]:
        """Ask the nodes which client they are, each once, and those again whose faults are
        forgotten; return those that were never asked before.
        """
        there = set(self.grid.get_node_ids())
        new, again = there - self._known, there & self._forgotten
        self._known |= new
        self._forgotten.clear()
        for reply in self._describe(sorted(new | again)):
            self._take(reply)
        return new

    def complete(self) -> bool:
        """Say whether there is nobody left to wait for.

        Raises
        ------
        SettingsError
            All expected clients have refused.
        """
        settled = len(self._awaited & (self.descriptions.keys() | self.faults.keys()))
        there = len(self._awaited & self.descriptions.keys())
        if self.names and settled >= self.expected and not there:
            reasons = "; ".join(dict.fromkeys(self.faults.values()))
            raise SettingsError(f"every node refuses: {reasons}")
        if settled >= self.expected and there >= self.needed:
            return True
        # Nodes that are told how many there are all come from Flower's simulation, or are numbered.
        return not self.names and len(self._known) >= self._announced

    def absent(self) -> list[str]:
        """Return the awaited clients that are not there, by name."""
        words = []
        for client in sorted(self._awaited - self.descriptions.keys()):
            word = self.names[client] if self.names else f"client {client}"
            words.append(f"{word} (at fault)" if client in self.faults else word)
        return words

    def forget_faults(self) -> None:
        """Have nodes that could not take part asked again: they may have been mended."""
        self._forgotten |= self._faulty
        self._faulty.clear()

    def close(self) -> None:
        """Write down who is missing.

        Raises
        ------
        RunError
            Too few clients are there.
        """
        awaited = len(self._awaited)
        for client in sorted(self._awaited - self.descriptions.keys() - self.faults.keys()):
            reason = "; ".join(["no SuperNode is this client", *self.strangers])
            self.grid.ledger.miss(client, 0, "describe", reason)
        there = len(self._awaited & self.descriptions.keys())
        if there < self.needed:
            words = [f"none of the {awaited} clients takes part"]
            if there:
                few = f"{there} of the {awaited} clients take part, {self.needed} are needed"
                words = [few, f"missing: {', '.join(self.absent())}"]
            reasons = dict.fromkeys([*self.faults.values(), *self.strangers])
            raise RunError("; ".join([*words, *reasons]))
        if there < awaited:
            log(WARNING, "%d of %d clients take part%s", there, awaited, self._remedy())

    def _remedy(self) -> str:
        if self.names or self.faults or self.strangers:  # more nodes would not mend that
            return ""
        return (
            "; for all of them in a simulation run with --federation-config "
            f'"num-supernodes={self.settings.data.num_clients} client-resources-num-cpus=1"'
        )

    def _describe(self, nodes: list[int]) -> Iterable[Message]:
        """Ask nodes which client they are."""
        content = RecordDict({"config": ConfigRecord({"code-version": code_version()})})
        messages = [Message(content, node, "query.describe", group_id="0") for node in nodes]
        timeout = self.settings.federation.timeout
        return self.grid.send_and_receive(messages, timeout=timeout) if nodes else []

    def _take(self, reply: Message) -> None:
        """Put a node's answer where it belongs."""
        node = reply.metadata.src_node_id
        if reply.has_error():
            if reply.error.code == USER_ERROR:
                raise SettingsError(one_line(reply.error.reason or "a client refused the settings"))
            self._stranger(node, one_line(f"node {node}: {reply.error.reason}"))
            return
        try:
            description = unpack(reply.content, Description)
        except ReplyError as error:
            self._stranger(node, f"node {node}: its description is wrong: {error}")
            return
        self._announced = description.num_partitions or self._announced
        client, fault = description.client, description.fault
        if client is not None and client in self.descriptions:
            self._refuse(node, None, f"another node is {self.grid.ledger.who(client)} already")
        elif client is not None and client >= self.settings.data.num_clients:
            self._refuse(node, client, f"there are {self.settings.data.num_clients} clients only")
        elif fault is not None or client is None:
            self._refuse(node, client, fault or "it does not say which client it is")
        else:
            self.faults.pop(client, None)
            self.descriptions[client] = description
            self.grid.clients[node] = client

    def _refuse(self, node: int, client: int | None, fault: str) -> None:
        """Leave a node out; say so once."""
        self._faulty.add(node)
        if client is None or client >= self.settings.data.num_clients:
            if self._stranger(node, f"node {node}: {fault}"):
                self.grid.ledger.refuse(client, 0, "describe", fault)
        elif self.faults.get(client) != fault:
            self.grid.ledger.refuse(client, 0, "describe", fault)
            self.faults[client] = fault

    def _stranger(self, node: int, words: str) -> bool:
        """Keep what came from a node that is no client; return whether it is news."""
        self._faulty.add(node)
        news = words not in self.strangers
        if news:
            self.strangers.append(words)
        return news
