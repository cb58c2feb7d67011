"""Flower around plain ``flwr run`` (docs/guides/flower.md): variables, ports, running SuperLinks.

``potara run --runtime flwr`` and ``make run`` start a SuperLink of their own and meet none of this.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from potara_flwr.command.checks.check import Check, fail, ok, warn

SUPERLINK = "flower-superlink"
HTTP_PORT = "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT"
LOCAL_PORTS = {HTTP_PORT: "39091", "FLWR_LOCAL_CONTROL_API_PORT": "39093"}
"""Variables that say where Flower's local SuperLink listens, and Flower's own defaults."""

VARIABLES = (
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION",
    *LOCAL_PORTS,
    "FLWR_HOME",
    "FLWR_TELEMETRY_ENABLED",
)
"""Those that docs/guides/flower.md advises to set."""

PROJECT = Path(__file__).parents[3]
"""Holds this package: the clone, or where a wheel was installed."""


def check_variables(environment: Mapping[str, str] = os.environ) -> Check:
    """Check that the variables of plain ``flwr run`` are set."""
    if missing := [name for name in VARIABLES if not environment.get(name)]:
        return warn(
            "flwr variables",
            f"{', '.join(missing)} not set",
            "before a plain flwr run, export them (docs/guides/flower.md); potara run sets its own",
        )
    return ok("flwr variables", "all set")


def holder_of(port: int) -> str:
    """Return in words which process listens on a loopback port; empty if none."""
    with socket.socket() as probe:
        # So that a connection that has just ended does not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            pass
        else:
            return ""
    try:
        for connection in psutil.net_connections("tcp"):
            at = connection.laddr
            if connection.status == psutil.CONN_LISTEN and at.port == port and connection.pid:
                process = psutil.Process(connection.pid)
                return f"{_program(process.cmdline()) or process.name()} (pid {process.pid})"
    except psutil.Error:
        pass  # it has ended meanwhile, or only its owner may look
    return "a process that is not yours"


def check_ports(
    environment: Mapping[str, str] = os.environ, holder: Callable[[int], str] = holder_of
) -> Iterator[Check]:
    """Check that the ports of Flower's local SuperLink are free, or its own."""
    for variable, default in LOCAL_PORTS.items():
        text = environment.get(variable) or default
        remedy = f"export {variable} with another number"
        if not text.isdecimal() or not 0 < int(text) < 65536:
            yield fail("port", f"{variable} is {text!r}, which is no port", remedy)
        elif not (found := holder(int(text))):
            yield ok("port", f"{text} is free")
        elif found.startswith(SUPERLINK):
            yield ok("port", f"{text} is held by {found}, which the next flwr run uses")
        else:
            state = fail if environment.get(variable) else warn
            yield state("port", f"{text} is held by {found}: flwr run cannot start there", remedy)


@dataclass(frozen=True)
class Running:
    """A SuperLink that runs on this machine."""

    pid: int
    seconds: float
    """Since it was started."""
    folder: Path | None
    """In which it was started; None where only its owner may know."""
    port: str
    python: str
    """The Python that runs it, by its path."""

    @property
    def words(self) -> str:
        """Which one it is."""
        return f"pid {self.pid}, started {_age(self.seconds)} ago in {self.folder or 'a folder'}"


def running_superlinks() -> list[Running]:
    """Return the SuperLinks that run on this machine."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "create_time", "cwd"]):
        line = process.info["cmdline"] or []
        if _program(line) != SUPERLINK:
            continue
        port = line[line.index("--port") + 1] if "--port" in line[:-1] else ""
        folder = process.info["cwd"]
        age = time.time() - process.info["create_time"]
        place = Path(folder) if folder else None
        found.append(Running(process.pid, age, place, port, line[0]))
    return sorted(found, key=lambda one: one.pid)


def check_superlinks(
    running: Sequence[Running],
    environment: Mapping[str, str] = os.environ,
    project: Path = PROJECT,
    python: str = sys.executable,
) -> Iterator[Check]:
    """Check that no SuperLink would run other code than this project's (docs/guides/flower.md)."""
    used = environment.get(HTTP_PORT) or LOCAL_PORTS[HTTP_PORT]
    for one in running:
        end = f"kill {one.pid}"
        if one.folder and not one.folder.exists():
            yield warn("superlink", f"{one.words}, which is gone: it was left behind", end)
        elif one.port != used:
            yield ok("superlink", f"{one.words}: not the one that a plain flwr run uses")
        elif one.folder and not same_code(one.folder, project):
            yield fail("superlink", f"{one.words}, another copy of this project: stale code", end)
        elif Path(one.python).parent != Path(python).parent:
            found = f"{one.words} by another Python, {one.python}, with its packages"
            yield warn("superlink", found, end)
        else:
            yield ok("superlink", f"{one.words}: the next flwr run uses it, as it was started")
    if not running:
        yield ok("superlink", "none is running")


def same_code(folder: Path, project: Path) -> bool:
    """Say whether apps run from ``folder`` import this project's code: it has the same, or none."""
    there, here = folder / "potara_flwr", project / "potara_flwr"
    if not there.is_dir() or there.resolve() == here.resolve():
        return True
    return _sources(there) == _sources(here)


def _sources(package: Path) -> dict[Path, bytes]:
    return {file.relative_to(package): file.read_bytes() for file in package.rglob("*.py")}


def _program(line: Sequence[str]) -> str:
    """Return the name of the program of a command line; of a script, not its interpreter."""
    names = [Path(word).name for word in line[:2]]
    if len(names) == 2 and names[0].startswith("python") and not line[1].startswith("-"):
        return names[1]
    return names[0] if names else ""


def _age(seconds: float) -> str:
    for unit, name in ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        if seconds >= unit:
            count = int(seconds // unit)
            return f"{count} {name}{'s' * (count > 1)}"
    return "0 seconds"
