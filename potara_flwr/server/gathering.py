"""Before the first round: wait for the nodes, learn who is who, leave out who cannot take part."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping
from logging import WARNING

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.supercore import log

from potara_flwr.core.errors import ReplyError, RunError, SettingsError, one_line
from potara_flwr.core.many import named
from potara_flwr.core.version import code_version
from potara_flwr.messages.grid import MeteredGrid
from potara_flwr.messages.reports import USER_ERROR, Description, unpack
from potara_flwr.settings.schema import Settings

POLL_SECONDS = 0.5
SAY_SECONDS = 10.0
"""How often a run that waits says for whom, and asks those anew that could not take part."""


def gather_clients(
    grid: MeteredGrid,
    settings: Settings,
    told: Mapping[str, str],
    wanted: Collection[int] | None = None,
) -> dict[int, Description]:
    """Wait for the SuperNodes, ask each which client it is, and fill in ``grid.clients``.

    Goes on once every expected client is there or has said why it cannot be, once Flower says
    there will be no more nodes, or after ``federation.connect-timeout`` seconds. Who is left out is
    logged and stands in the results. While too few clients can take part
    (``federation.min-reply-fraction``) it waits until the limit, asking anew those that were at
    fault: they may have been mended. Where only some are ``wanted``, nobody else is waited for, and
    one of them is enough. ``told`` is what every message says.

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
    roster = Roster(grid, settings, told, wanted)
    limit = settings.federation.connect_timeout
    start = said = time.monotonic()
    again = False
    while True:
        new = roster.ask(again)
        now = time.monotonic()
        # Who came while others were answering is asked still; who is asked anew holds up nobody.
        if roster.complete() or (not new and now - start > limit):
            break
        if again := now - said >= SAY_SECONDS:
            said = now
            waited = f"{now - start:.0f} of at most {limit:g} s"
            log(WARNING, "waiting for %s (%s)", named(roster.absent()), waited)
        time.sleep(POLL_SECONDS)
    roster.close()
    return roster.descriptions


class Roster:
    """Who is there, who cannot take part and why.

    Parameters
    ----------
    grid : MeteredGrid
        Reaches the nodes; is told which client each of them is.
    settings : Settings
        Say how many clients there are, and how many must take part.
    told : mapping
        What every message says.
    wanted : collection of int, optional
        The clients that are waited for; all by default.
    """

    def __init__(
        self,
        grid: MeteredGrid,
        settings: Settings,
        told: Mapping[str, str],
        wanted: Collection[int] | None = None,
    ) -> None:
        self.grid = grid
        self.told = {"code-version": code_version(), **told}
        self.settings = settings
        self.names = settings.federation.names
        self.num_clients = settings.data.num_clients
        self.awaited = set(range(self.num_clients) if wanted is None else wanted)
        self.min_fraction = settings.federation.min_reply_fraction if wanted is None else 0.0
        self.descriptions: dict[int, Description] = {}
        self.faults: dict[int, str] = {}
        """Client → why it cannot take part, by its own word."""
        self.strangers: list[str] = []
        """What came from nodes of which nobody knows which client they are."""
        self._asked: set[int] = set()
        """Nodes that were asked before."""
        self._faulty: set[int] = set()
        """Those of them that cannot take part."""
        self._announced = self.num_clients
        """How many nodes there are, by what they are told themselves."""

    @property
    def there(self) -> int:
        """How many of the awaited clients take part."""
        return len(self.awaited & self.descriptions.keys())

    @property
    def expected(self) -> int:
        """How many clients could be there: all that are awaited, or as many as there are nodes."""
        return min(self._announced, len(self.awaited))

    @property
    def needed(self) -> int:
        """How many clients must be there."""
        return max(1, math.ceil(self.min_fraction * self.expected))

    def ask(self, again: bool) -> set[int]:
        """Ask the nodes which client they are, each once, and ``again`` those that could not take
        part: they may have been mended. Return those that were never asked before.
        """
        nodes = set(self.grid.get_node_ids())
        new, mended = nodes - self._asked, nodes & self._faulty if again else set()
        self._asked |= new
        self._faulty -= mended
        content = RecordDict({"config": ConfigRecord({**self.told})})
        messages = [
            Message(content, node, "query.describe", group_id="0") for node in sorted(new | mended)
        ]
        timeout = self.settings.federation.timeout
        for reply in self.grid.send_and_receive(messages, timeout=timeout) if messages else ():
            self._take(reply)
        return new

    def complete(self) -> bool:
        """Say whether there is nobody left to wait for.

        Raises
        ------
        SettingsError
            All expected clients have refused.
        """
        settled = len(self.awaited & (self.descriptions.keys() | self.faults.keys()))
        if settled >= self.expected:
            if self.names and not self.there:
                reasons = "; ".join(dict.fromkeys(self.faults.values()))
                raise SettingsError(f"every node refuses: {reasons}")
            if self.there >= self.needed:
                return True
        # Nodes that are told how many there are all come from Flower's simulation, or are numbered.
        return not self.names and len(self._asked) >= self._announced

    def absent(self) -> list[str]:
        """Return the awaited clients that are not there, by name."""
        words = []
        for client in sorted(self.awaited - self.descriptions.keys()):
            word = self.names[client] if self.names else f"client {client}"
            words.append(f"{word} (at fault)" if client in self.faults else word)
        return words

    def close(self) -> None:
        """Write down who is missing.

        Raises
        ------
        RunError
            Too few clients are there.
        """
        there, awaited = self.there, len(self.awaited)
        for client in sorted(self.awaited - self.descriptions.keys() - self.faults.keys()):
            reason = "; ".join(["no SuperNode is this client", *self.strangers])
            self.grid.ledger.miss(client, 0, "describe", reason)
        if there < self.needed:
            faults = [f"none of the {awaited} clients takes part"]
            if there:
                few = f"{there} of the {awaited} clients take part, {self.needed} are needed"
                faults = [few, f"missing: {named(self.absent())}"]
            reasons = dict.fromkeys([*self.faults.values(), *self.strangers])
            raise RunError("; ".join([*faults, *reasons]))
        if there < awaited:
            words = f"{there} of {awaited} clients take part"
            if not (self.names or self.faults or self.strangers):  # more nodes would mend that
                words += (
                    "; for all of them in a simulation run with --federation-config "
                    f'"num-supernodes={self.num_clients} client-resources-num-cpus=1"'
                )
            log(WARNING, "%s", words)

    def _take(self, reply: Message) -> None:
        """Put a node's answer where it belongs."""
        node = reply.metadata.src_node_id
        if reply.has_error() and reply.error.code == USER_ERROR:
            raise SettingsError(one_line(reply.error.reason or "a client refused the settings"))
        self._faulty.add(node)
        if reply.has_error():
            self._add_stranger(one_line(f"node {node}: {reply.error.reason}"))
            return
        try:
            description = unpack(reply.content, Description)
        except ReplyError as error:
            self._add_stranger(f"node {node}: its description is wrong: {error}")
            return
        self._announced = description.num_partitions or self._announced
        client, fault = description.client, description.fault
        if client in self.descriptions:
            self._refuse(node, None, f"another node is {self.grid.ledger.who(client)} already")
        elif client is not None and client >= self.num_clients:
            self._refuse(node, client, f"there are {self.num_clients} clients only")
        elif fault is not None:
            self._refuse(node, client, fault)
        else:
            assert client is not None  # as every description that tells of no fault
            self._faulty.discard(node)
            self.faults.pop(client, None)
            self.descriptions[client] = description
            self.grid.clients[node] = client

    def _refuse(self, node: int, client: int | None, fault: str) -> None:
        """Leave a node out; say so once."""
        if client is None or client >= self.num_clients:
            news = self._add_stranger(f"node {node}: {fault}")
        else:
            news = self.faults.get(client) != fault
            self.faults[client] = fault
        if news:
            self.grid.ledger.refuse(client, 0, "describe", fault)

    def _add_stranger(self, words: str) -> bool:
        """Keep what came from a node that is no client; return whether it is news."""
        news = words not in self.strangers
        if news:
            self.strangers.append(words)
        return news
