"""The ``flwr-clientapp`` of a warm node: hands its work to the resident process, awaits its end.

    python -IS shim.py COMMAND [WORD …]

The socket lies next to this file. COMMAND is Flower's own ``flwr-clientapp``: it takes the place of
this process where no resident process takes the work. Imports little of the standard library alone,
for it runs once a message.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from contextlib import suppress
from types import FrameType
from typing import Any

PATIENCE = 15.0
"""Seconds to wait for a resident process, which may be starting or loading a base model: Flower
gives a message up of which it has heard nothing for 30 s (``HEARTBEAT_DEFAULT_INTERVAL``)."""
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP)


class NotTakenError(Exception):
    """No process has begun to do the work (says why)."""


def main(arguments: list[str]) -> int:
    """Have the work done; return its exit status."""
    command, *words = arguments
    folder = os.path.dirname(os.path.abspath(__file__))
    try:
        return done_by_resident(os.path.join(folder, "socket"), words)
    except NotTakenError as reason:
        print(f"cold: {reason}; this message has a process of its own", file=sys.stderr, flush=True)
        os.execv(command, [command, *words])


def done_by_resident(place: str, words: list[str]) -> int:
    """Have a fork of the resident process do the work; return its exit status.

    Raises
    ------
    NotTakenError
        It was not begun, and will not be.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE)
        answers = connection.makefile("rb")
        try:
            connection.connect(place)
            with suppress(ConnectionError):  # it may refuse before it has read all
                ask(connection, words)
            answer = json.loads(
                answers.readline() or b'{"refused": "the resident process has ended"}'
            )
        except TimeoutError:
            raise NotTakenError(f"no resident process in {PATIENCE:g} s") from None
        except (OSError, ValueError) as error:
            raise NotTakenError(f"no resident process ({error})") from None
        if "pid" not in answer:
            raise NotTakenError(answer["refused"])
        pass_signals_on(answer["pid"])
        connection.settimeout(None)
        try:
            connection.sendall(b"go\n")  # without it the fork ends without having done anything
        except OSError as error:
            raise NotTakenError(f"the resident process has ended ({error})") from None
        return status_of(answers.readline())


def ask(connection: socket.socket, words: list[str]) -> None:
    """Send all that a process inherits: its streams, words, folder and environment."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # it was started without that stream
            os.open(os.devnull, os.O_RDWR)
    request: dict[str, Any] = {
        "words": words,
        "folder": os.getcwd(),
        "environment": dict(os.environ),
    }
    socket.send_fds(connection, [b"\n"], [0, 1, 2])
    connection.sendall(json.dumps(request).encode() + b"\n")


def pass_signals_on(pid: int) -> None:
    """Send the fork every signal that this process gets."""

    def pass_on(number: int, frame: FrameType | None) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, number)

    for number in PASSED_ON:
        signal.signal(number, pass_on)


def status_of(answer: bytes) -> int:
    """Return the exit status that the resident process has seen; 128 + n after the signal n."""
    if not answer:
        print("warm: the resident process has ended, and so has its fork", file=sys.stderr)
        return 1
    status: int = json.loads(answer)["status"]
    return 128 - status if status < 0 else status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
