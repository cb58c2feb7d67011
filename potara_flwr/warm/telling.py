"""How an app says what the resident process should hold for its next message."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RESIDENT = "POTARA_RESIDENT"
"""Environment variable of a client process that a resident process has forked: ``<pid>:<fd>``, its
own id and where it writes. Set by resident.py."""


def is_warm() -> bool:
    """Return whether this process is a fork of a resident process."""
    return os.environ.get(RESIDENT, "").startswith(f"{os.getpid()}:")


def tell(
    app: Path, entry: str, base: str, values: Mapping[str, Any], files: Sequence[str] = ()
) -> None:
    """Ask the resident process to call a function of the app before its next fork.

    Where the app or its base is another one than that which the resident process holds, or files
    have changed, a new process takes its place, so that nothing of the other stays in memory.

    Parameters
    ----------
    app : Path
        The folder from which the app's modules are imported.
    entry : str
        ``module:function`` of the app; called with ``values``, returns what it holds, in words.
    base : str
        Names what is large, such as the base model.
    values : mapping
        As JSON has them.
    files : sequence of str
        Files, and folders of files, that are read: where one is changed, nothing is held any more.
    """
    record = {
        "app": str(app), "entry": entry, "base": base, "values": dict(values), "files": list(files),
    }  # fmt: skip
    os.write(int(os.environ[RESIDENT].partition(":")[2]), json.dumps(record).encode() + b"\n")
