"""Keeps a SuperNode's socket, and starts a resident process when somebody waits there for one.

    python -IS keeper.py LISTENING ALIVE WORD …

LISTENING is the socket's file descriptor; ALIVE that of a pipe whose other end the SuperNode alone
has open: when it is closed, by whatever has ended the SuperNode, the resident process and this one
end, and the folder in which this file lies is gone. The words go to resident.py. Imports the
standard library alone.
"""

from __future__ import annotations

import fcntl
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import suppress

FOLDER = os.path.dirname(os.path.abspath(__file__))
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_DEACTIVATE_ASYNC_LOAD": "1",
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # looks for a GPU without touching it
}
"""Variables of the resident process, not of its forks: a process with several threads, or one that
holds a GPU, cannot be forked."""


class Keeper:
    """The socket and at most one resident process."""

    def __init__(self, listening: int, alive: int, words: list[str]) -> None:
        self.listening = socket.socket(fileno=listening)
        self.listening.setblocking(False)
        self.alive = alive
        self.words = words
        self.process: subprocess.Popen[bytes] | None = None

    def keep(self) -> None:
        """Return when the SuperNode has ended."""
        woken, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        self.start()
        while True:
            poll = select.poll()
            poll.register(self.alive, select.POLLHUP)
            poll.register(woken, select.POLLIN)
            if self.process is None:
                poll.register(self.listening, select.POLLIN)
            ready = dict(poll.poll())
            if self.alive in ready:
                return
            if woken in ready:
                os.read(woken, 4096)
            if self.process is not None and self.process.poll() is not None:
                self.ended(self.process)
            elif self.listening.fileno() in ready:
                self.start()

    def start(self) -> None:
        """Start a resident process, which answers on the socket."""
        fds = (self.listening.fileno(), self.alive)
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                os.path.join(FOLDER, "resident.py"),
                *map(str, fds),
                *self.words,
            ],
            env=os.environ | ONE_THREAD,
            pass_fds=fds,
        )

    def ended(self, process: subprocess.Popen[bytes]) -> None:
        """Send those who wait away if the resident process did not end in order."""
        self.process = None
        if process.returncode == 0:
            return
        print(f"warm: the resident process has ended with {process.returncode}", file=sys.stderr)
        with suppress(BlockingIOError):
            while True:
                self.listening.accept()[0].close()

    def stop(self) -> None:
        """End the resident process; its forks end as other client processes do."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait()


def main(arguments: list[str]) -> None:
    """Keep the socket until the SuperNode ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the SuperNode, whose end is noticed
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    # A folder with a lock is left alone by those who clean up in /tmp (systemd-tmpfiles).
    fcntl.flock(os.open(FOLDER, os.O_RDONLY), fcntl.LOCK_SH)
    listening, alive, *words = arguments
    keeper = Keeper(int(listening), int(alive), words)
    try:
        keeper.keep()
    finally:
        keeper.stop()
        shutil.rmtree(FOLDER, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1:])
