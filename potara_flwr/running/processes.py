"""Long-running processes of Flower: each with a log of its own, ended with its whole family."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import httpx
import psutil

from potara_flwr.core.errors import RunError

START_SECONDS = 60
STOP_SECONDS = 15


@dataclass
class Service:
    """A process that stays until it is stopped."""

    name: str
    """For error messages: ``the SuperLink``."""
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    """Where its output goes, after what is there already."""
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _read_from: int = field(default=0, init=False)

    def start(self) -> None:
        """Start it, in the log's folder."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._read_from = log.tell()
            self.process = subprocess.Popen(
                self.command, cwd=self.log.parent, env=self.environment, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    @property
    def running(self) -> bool:
        """Whether it has been started and has not ended."""
        return self.process is not None and self.process.poll() is None

    def output(self) -> str:
        """Return what it has said since it was last started."""
        if not self.log.is_file():
            return ""
        return self.log.read_bytes()[self._read_from :].decode(errors="replace")

    def wait_for(self, words: str, seconds: float = START_SECONDS) -> None:
        """Wait until it has said these words.

        Raises
        ------
        RunError
            It has ended, or the time is over; tells its last line.
        """
        deadline = time.monotonic() + seconds
        while words not in self.output():
            if not self.running or time.monotonic() > deadline:
                raise self.failure()
            time.sleep(0.1)

    def wait_until_healthy(self, address: str, context: ssl.SSLContext | None = None) -> None:
        """Wait until its HTTP port answers.

        Parameters
        ----------
        address : str
            Host and port.
        context : SSLContext, optional
            Trusts its certificate; without one the port speaks plain HTTP.

        Raises
        ------
        RunError
            It has ended, or the time is over; tells its last line.
        """
        url = f"{'http' if context is None else 'https'}://{address}/health"
        deadline = time.monotonic() + START_SECONDS
        with httpx.Client(verify=context or False, timeout=1, trust_env=False) as client:
            while self.running and time.monotonic() < deadline:
                try:
                    if client.get(url).is_success:
                        return
                except httpx.HTTPError:
                    time.sleep(0.1)
        raise self.failure()

    def failure(self) -> RunError:
        """Return the error that says it did not start."""
        last = self.output().strip().splitlines()[-1:] or ["it said nothing"]
        return RunError(f"{self.name} did not start: {last[0].strip()} (log: {self.log})")

    def stop(self) -> None:
        """End it and everything it has started."""
        if self.process is not None:
            stop(self.process)


def free_port() -> int:
    """Return a loopback port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def interrupt_on_sigterm() -> None:
    """Let SIGTERM end this process as Ctrl-C does, so that no process of its own is left behind."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and everything it started, Ray's processes among them."""
    stop_all([process])


def stop_all(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End processes and everything they started: ask all of them first, then wait."""
    family = [member for process in processes for member in _family(process)]
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    for member in family:
        if member.is_running():
            member.terminate()
    _, alive = psutil.wait_procs(family, timeout=STOP_SECONDS)
    for member in alive:
        member.kill()
    for process in processes:
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _family(process: subprocess.Popen[bytes]) -> set[psutil.Process]:
    """Return what a process has started: its children and theirs, and, where it has ended before
    them, who is left of its process group.
    """
    family: set[psutil.Process] = set()
    if process.poll() is None:
        family.update(psutil.Process(process.pid).children(recursive=True))
    for other in psutil.process_iter():
        try:
            if os.getpgid(other.pid) == process.pid != other.pid:
                family.add(other)
        except ProcessLookupError:  # it has just ended
            continue
    return family
