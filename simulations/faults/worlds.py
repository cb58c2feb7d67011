"""Where runs are disturbed: a federation of real processes, or a simulation on Ray.

A world knows how to find a process that is to die, and how what has died comes back.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import psutil

from potara_flwr.running.federation import Federation, federation
from potara_flwr.running.flower_runtime import superlink
from potara_flwr.running.processes import Service
from potara_flwr.settings.groups import Value
from simulations.faults.plan import ACTOR, RESIDENT, Kill
from simulations.faults.subject import NAMES

FIRST_DELAY, LAST_DELAY = 2.0, 16.0
STEADY_SECONDS = 30.0
"""How long a process has to run before its delays begin anew."""


class World(Protocol):
    """A SuperLink with nodes, to which runs can be submitted."""

    environment: dict[str, str]
    """In which ``flwr`` commands find it."""
    simulated: str
    """How Flower simulates the nodes; empty where they are real."""
    settings: dict[str, Value]
    """What a run in it has to be told."""

    def app(self) -> psutil.Process | None:
        """Return the process of the ServerApp that runs now."""

    def victim(self, kill: Kill) -> psutil.Process | None:
        """Return the process that is to die, if it is there now."""

    def mend(self) -> None:
        """Start what has ended, when its time has come."""

    def personalized(self, results: Path, run_key: str, client: int) -> Path:
        """Return the folder of what a client has ended with."""


@dataclass
class Supervised:
    """A service that comes back at growing intervals, as systemd would start it."""

    service: Service
    delay: float = field(default=FIRST_DELAY, init=False)
    _due: float | None = field(default=None, init=False)
    _begun: float = field(default_factory=time.monotonic, init=False)

    def mend(self) -> None:
        """Start it where it has ended and its time has come."""
        now = time.monotonic()
        if self.service.running:
            if now - self._begun > STEADY_SECONDS:
                self.delay = FIRST_DELAY
        elif self._due is None:
            self.service.stop()  # systemd ends what is left of the unit before it starts it anew
            self._due = time.monotonic() + self.delay
            self.delay = min(2 * self.delay, LAST_DELAY)
        elif now >= self._due:
            self.service.start()
            self._due, self._begun = None, now


class RealProcesses:
    """Runs on real SuperNodes."""

    simulated = ""

    def __init__(self, running: Federation) -> None:
        self.federation = running
        self.environment = running.environment
        self.settings: dict[str, Value] = {"federation.nodes": ",".join(NAMES)}
        services = [running.superlink, running.superexec, *running.nodes.values()]
        self._supervised = [Supervised(service) for service in services]

    def app(self) -> psutil.Process | None:
        """Return the superexec's ``flwr-serverapp``."""
        return descendant(self.federation.superexec, "flwr-serverapp")

    def victim(self, kill: Kill) -> psutil.Process | None:
        """Return the process that is to die, if it is there now."""
        node = self.federation.nodes[NAMES[kill.node]]
        if kill.target == "ServerApp":
            return self.app()
        if kill.target == "ClientApp":
            return descendant(node, "flwr-clientapp")
        if kill.target == RESIDENT:
            return descendant(node, "resident.py")
        service = {
            "SuperLink": self.federation.superlink,
            "superexec": self.federation.superexec,
            "SuperNode": node,
        }[kill.target]
        process = service.process
        return psutil.Process(process.pid) if process and service.running else None

    def mend(self) -> None:
        """Start what has ended, when its time has come."""
        for supervised in self._supervised:
            supervised.mend()

    def personalized(self, results: Path, run_key: str, client: int) -> Path:
        """Return the folder on the node."""
        state = self.federation.folder / "nodes" / NAMES[client] / "state"
        return state / run_key / str(client) / "personalized"


class Actors:
    """Runs on Ray's actors."""

    simulated = f"num-supernodes={len(NAMES)} client-resources-num-cpus=1"

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment
        self.settings: dict[str, Value] = {}
        self._superlink = process_with(f"{environment['FLWR_HOME']}/state.db")

    def app(self) -> psutil.Process | None:
        """Return the process that holds ServerApp and Ray's driver."""
        return child_with(self._superlink, "flwr-simulation")

    def victim(self, kill: Kill) -> psutil.Process | None:
        """Return an actor that runs now."""
        if kill.target != ACTOR:
            raise ValueError(kill.target)
        return child_with(self._superlink, "ray::ClientAppActor")

    def mend(self) -> None:
        """Do nothing: nobody starts an actor anew."""

    def personalized(self, results: Path, run_key: str, client: int) -> Path:
        """Return the folder next to the server's."""
        return results / "clients" / str(client)


@contextmanager
def real_processes(folder: Path) -> Iterator[RealProcesses]:
    """Keep a federation up for as long as the block lasts."""
    with federation(folder, NAMES) as running:
        yield RealProcesses(running)


@contextmanager
def actors() -> Iterator[Actors]:
    """Keep a SuperLink for simulations up for as long as the block lasts."""
    with superlink() as environment:
        yield Actors(environment)


def strike(process: psutil.Process) -> bool:
    """Kill a process; return whether it was there still."""
    try:
        process.send_signal(signal.SIGKILL)
    except psutil.NoSuchProcess:
        return False
    return True


def descendant(service: Service, word: str) -> psutil.Process | None:
    """Return a running process that a service has started and whose command has the word."""
    if service.process is None or not service.running:
        return None
    with suppress(psutil.NoSuchProcess):
        return child_with(psutil.Process(service.process.pid), word)
    return None


def child_with(parent: psutil.Process, word: str) -> psutil.Process | None:
    """Return a running process below another one whose command has the word."""
    for child in parent.children(recursive=True):
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if word in " ".join(child.cmdline()):
                return child
    return None


def process_with(word: str) -> psutil.Process:
    """Return the process whose command has the word."""
    for process in psutil.process_iter(["cmdline"]):
        if any(word == part for part in process.info["cmdline"] or ()):
            return process
    raise LookupError(word)
