"""A federation of real processes on loopback ports, as several machines would run it.

::

    flwr run ──► SuperLink ◄── superexec ──► ServerApp
                  ▲  ▲  ▲        TLS everywhere; SQLite; SuperNodes sign with their keys
          SuperNode … SuperNode ──► superexec ──► ClientApp, a process for each message, forked
                                                  from one that has all it needs (``potara node``)

A SuperNode talks to its own ClientApp over loopback in plain HTTP.
"""

from __future__ import annotations

import ssl
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from potara_flwr.running.credentials import (
    CA_CERTIFICATE,
    NODE_KEY,
    SECRET,
    public_key,
    read_names,
    write_node_key,
    write_server_credentials,
)
from potara_flwr.running.flower_cli import environment_of, flwr, write_connection
from potara_flwr.running.processes import Service, free_port, stop_all

VALID_DAYS = 7
"""Of the certificates: a federation makes them anew."""
POLL_SECONDS = "0.1"
"""How often a superexec asks for work; Flower's default is 1."""


class Federation:
    """The processes, and the folder in which all of them keep what is theirs.

    Parameters
    ----------
    folder : Path
        Gets certificates, keys, the database, and each process's log. Of an earlier federation in
        it the nodes' states are left, so that a run can go on, and the logs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for file in folder.glob("state.db*"):
            file.unlink()
        self.address = f"127.0.0.1:{free_port()}"
        self.nodes: dict[str, Service] = {}
        write_server_credentials(folder, read_names("DNS:localhost,IP:127.0.0.1"), VALID_DAYS)
        self.ca_certificate = folder / CA_CERTIFICATE
        self._secret = folder / SECRET
        write_connection(folder / "home", self.address, self.ca_certificate)
        self.environment = environment_of(
            folder / "home", FLWR_SUPEREXEC_TASK_POLL_INTERVAL=POLL_SECONDS
        )
        """In which ``flwr`` commands find the SuperLink."""
        self.superlink = self._superlink()
        self.superexec = self._superexec()

    def start(self) -> None:
        """Start SuperLink and superexec."""
        self.superlink.start()
        context = ssl.create_default_context(cafile=str(self.ca_certificate))
        self.superlink.wait_until_healthy(self.address, context)
        self.superexec.start()

    def add_node(
        self,
        name: str,
        config: Mapping[str, str | int],
        *,
        registered: bool = True,
        ca_certificate: Path | None = None,
        cold: bool = False,
    ) -> Service:
        """Make a node's folder and key, register the key, and start its SuperNode.

        Parameters
        ----------
        name : str
            Names its folder.
        config : mapping
            Its ``--node-config``; ``state-dir`` is added.
        registered : bool
            Whether the SuperLink is told its key.
        ca_certificate : Path, optional
            Whom it trusts; by default the federation's authority.
        cold : bool
            Whether it starts a process anew for every message.
        """
        warm = [sys.executable, "-m", "potara_flwr.command", "node"]
        folder = self.folder / "nodes" / name
        folder.mkdir(parents=True, exist_ok=True)
        key = folder / NODE_KEY
        write_node_key(key, name)
        if registered:
            words = ["supernode", "register", str(public_key(key)), "--name", name]
            flwr(words, self.environment)
        pairs = {**config, "state-dir": str(folder / "state")}
        node_config = (f"{k}={v}" if isinstance(v, int) else f'{k}="{v}"' for k, v in pairs.items())
        environment = {**self.environment, "FLWR_HOME": str(folder / "home")}
        node = Service(
            f"the SuperNode {name}",
            [
                *(["flower-supernode"] if cold else warm), "--superlink", self.address,
                "--root-certificates", str(ca_certificate or self.ca_certificate),
                "--auth-supernode-private-key", str(key),
                "--host", "127.0.0.1", "--port", str(free_port()),
                "--node-config", " ".join(node_config),
            ],
            environment,
            folder / "supernode.log",
        )  # fmt: skip
        self.nodes[name] = node
        node.start()
        return node

    def wait_for_nodes(self) -> None:
        """Wait until every node is connected.

        Raises
        ------
        RunError
            One is not let in; tells its last line.
        """
        for node in self.nodes.values():
            node.wait_for("SuperNode ID:")

    def stop(self) -> None:
        """End every process."""
        services = [*self.nodes.values(), self.superexec, self.superlink]
        stop_all([service.process for service in services if service.process is not None])

    def _superlink(self) -> Service:
        return Service(
            "the SuperLink",
            [
                "flower-superlink", "--host", "127.0.0.1",
                "--port", self.address.rpartition(":")[2],
                "--ssl-ca-certfile", str(self.ca_certificate),
                "--ssl-certfile", str(self.folder / "server.crt"),
                "--ssl-keyfile", str(self.folder / "server.key"),
                "--enable-supernode-auth", "--database", str(self.folder / "state.db"),
                "--isolation", "process", "--superexec-auth-secret-file", str(self._secret),
                "--disable-runtime-dependency-installation",
            ],
            self.environment,
            self.folder / "superlink.log",
        )  # fmt: skip

    def _superexec(self) -> Service:
        return Service(
            "the superexec",
            [
                "flower-superexec", "--runtime-api-address", self.address,
                "--root-certificates", str(self.ca_certificate),
                "--superexec-auth-secret-file", str(self._secret),
            ],
            self.environment,
            self.folder / "superexec.log",
        )  # fmt: skip


@contextmanager
def federation(
    folder: Path,
    nodes: Mapping[str, Mapping[str, str | int]] | Sequence[str],
    *,
    cold: Collection[str] = (),
) -> Iterator[Federation]:
    """Run a federation for as long as the block lasts; whatever happens, its processes end with it.

    Parameters
    ----------
    folder : Path
        Gets all that the processes write.
    nodes : mapping or sequence
        Name of each node → its ``--node-config``; of a sequence of names, the name alone.
    cold : collection of str
        Names of nodes that start a process anew for every message.

    Raises
    ------
    RunError
        A process did not start, or a node was not let in.
    """
    configs = nodes if isinstance(nodes, Mapping) else {name: {"name": name} for name in nodes}
    running = Federation(folder)
    try:
        running.start()
        for name, config in configs.items():
            running.add_node(name, config, cold=name in cold)
        running.wait_for_nodes()
        yield running
    finally:
        running.stop()
