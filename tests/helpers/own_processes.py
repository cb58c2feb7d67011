"""What the tests have started and what still runs of it, whatever else the machine does."""

from __future__ import annotations

import os
from contextlib import suppress

import psutil

MARK = "POTARA_TESTS"
"""Environment variable that every process of a test session inherits; its value is the session."""
HANGING = 900
"""Seconds after which a process hangs: a busy machine may take minutes for what takes seconds."""
NAMES = ("flower-super", "flwr-", "potara-node-", "raylet", "gcs_server")


def mark() -> None:
    """Mark this process, and all that it will start, as of this session."""
    os.environ[MARK] = str(os.getpid())


def own_processes() -> set[int]:
    """Return the ids of the processes of Flower and Ray that run now and are of this session."""
    found = set()
    for process in psutil.process_iter(["cmdline"]):
        if any(name in " ".join(process.info["cmdline"] or []) for name in NAMES):
            with suppress(psutil.Error):  # it has just ended, or is another user's
                if process.environ().get(MARK) == os.environ[MARK]:
                    found.add(process.pid)
    return found
