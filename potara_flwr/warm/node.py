"""Become a SuperNode whose client processes are warm."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

CLIENT = "flwr-clientapp"
"""The command that Flower starts for each message."""
MAIN = "flwr.supernode.cli.flwr_clientapp:flwr_clientapp"
"""What that command calls."""
PRELOADED = ("torch", "transformers", "peft", "safetensors.torch", "pydantic", "flwr.clientapp")
"""Imported before the first message; an app's other modules are with what it asks to be held."""
IDLE_SECONDS = 600.0


def run_node(words: Sequence[str], idle_seconds: float = IDLE_SECONDS) -> NoReturn:
    """Replace this process by ``flower-supernode``, and have its messages answered warm.

    Parameters
    ----------
    words : sequence of str
        Those of ``flower-supernode``.
    idle_seconds : float
        How long a resident process waits for a message before it ends.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    environment = {**os.environ, "PATH": path}
    try:
        environment["PATH"] = os.pathsep.join([str(warm_folder(environment, idle_seconds)), path])
    except OSError as error:
        print(f"cold: no resident process ({error})", file=sys.stderr, flush=True)
    os.execvpe("flower-supernode", ["flower-supernode", *words], environment)


def warm_folder(
    environment: Mapping[str, str],
    idle_seconds: float,
    main: str = MAIN,
    preloaded: Sequence[str] = PRELOADED,
) -> Path:
    """Make the folder that holds a SuperNode's own ``flwr-clientapp``, and start the process that
    keeps its socket; both are gone when this process has ended, whatever takes its place by exec.

    Raises
    ------
    OSError
        The folder or the socket cannot be made, or Flower's command is not on the path.
    """
    command = shutil.which(CLIENT, path=environment["PATH"])
    if command is None:
        raise FileNotFoundError(f"{CLIENT} is not on the PATH")
    folder = Path(tempfile.mkdtemp(prefix="potara-node-"))
    alive, end = os.pipe()
    try:
        for program in ("shim.py", "keeper.py", "resident.py"):
            shutil.copy(Path(__file__).with_name(program), folder)
        call = shlex.join([sys.executable, "-IS", str(folder / "shim.py"), command])
        (folder / CLIENT).write_text(f'#!/bin/sh\nexec {call} "$@"\n')
        (folder / CLIENT).chmod(0o700)
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(folder / "socket"))
            listening.listen(128)
            subprocess.Popen(
                [
                    sys.executable, "-IS", str(folder / "keeper.py"),
                    str(listening.fileno()), str(alive),
                    str(idle_seconds), main, ",".join(preloaded),
                ],
                env=environment,
                stdin=subprocess.DEVNULL,
                pass_fds=(listening.fileno(), alive),
            )  # fmt: skip
    except OSError:
        os.close(end)
        shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        os.close(alive)
    # Open in the SuperNode and nowhere else: closed by its end.
    os.set_inheritable(end, True)
    return folder
