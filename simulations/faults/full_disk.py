"""A run on a disk that is full from its second round on, and goes on when there is room again.

    python -m simulations.faults.full_disk FOLDER

The disk is a tmpfs of 8 MB in a mount namespace of this process's own (``unshare``, Linux), which
is gone with it. Where that is not allowed, files may not grow beyond a limit (RLIMIT_FSIZE): the
system then refuses with EFBIG in the place of ENOSPC. Prints JSON: which of them, and the line by
which the run ended.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from pathlib import Path

from flwr.app import Message

from potara_flwr.core.errors import RunError, StorageError
from potara_flwr.in_process import InProcessGrid, run_in_process
from potara_flwr.settings.schema import Settings
from simulations.faults.subject import settings_of

TMPFS, LIMIT = "tmpfs", "RLIMIT_FSIZE"
SIZE = "8m"
NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")


class FillingGrid(InProcessGrid):
    """Fills the server's disk before the second round; clients keep what is theirs elsewhere."""

    def __init__(self, settings: Settings, state: Path, fill: Callable[[], None]) -> None:
        super().__init__(settings)
        self._fill: Callable[[], None] | None = fill
        for context in self.contexts.values():
            context.node_config["state-dir"] = str(state)

    def _answer(self, message: Message) -> Message:
        if message.metadata.group_id == "2" and self._fill:
            self._fill()
            self._fill = None
        return super()._answer(message)


def run_on_full_disk(folder: Path, *, limited: bool) -> str:
    """Run until the disk is full, make room, and go on; return the line of the first end.

    Parameters
    ----------
    limited : bool
        Whether a limit on files stands for the disk.

    Raises
    ------
    RunError
        The full disk was not met.
    """
    disk, results, state = folder / "disk", folder / "disk" / "run", folder / "state"
    disk.mkdir()
    ballast = disk / "ballast"
    if not limited:
        subprocess.run(["mount", "-t", TMPFS, "-o", f"size={SIZE}", TMPFS, str(disk)], check=True)

    def fill() -> None:
        if limited:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
            return
        with suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    settings = settings_of({"run.results": str(results)})
    line = ""
    try:
        run_in_process(settings, FillingGrid(settings, state, fill))
    except (StorageError, RunError) as error:
        line = str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    if not line:
        raise RunError("the disk was full, and no save met that")
    ballast.unlink(missing_ok=True)
    settings = settings_of({"run.resume": str(results)})
    run_in_process(settings, FillingGrid(settings, state, lambda: None))
    (key,) = [place for place in state.iterdir() if place.name != "data"]
    shutil.copytree(results, folder / "results")
    for client in key.iterdir():
        shutil.copytree(client / "personalized", folder / "results" / "clients" / client.name)
    return line


def mounting_allowed() -> bool:
    """Say whether a process of this user may mount a tmpfs in a namespace of its own."""
    command = [*NAMESPACE, "mount", "-t", TMPFS, TMPFS, "/mnt"]
    if not shutil.which(NAMESPACE[0]):
        return False
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def full_disk(folder: Path, *, limited: bool) -> tuple[str, str]:
    """Do it in a process of its own; return what stood for the disk, and the line of the first end.
    ``folder / "results"`` gets the results.

    Raises
    ------
    RunError
        The run did not meet the full disk, or did not go on.
    """
    folder.mkdir(parents=True)
    words = [sys.executable, "-m", __name__, str(folder), *(["--limited"] if limited else [])]
    done = subprocess.run(
        [*([] if limited else NAMESPACE), *words], text=True, capture_output=True, check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    if done.returncode != 0:
        raise RunError(f"the run on a full disk failed: {done.stderr.strip()[-2000:]}")
    answer = json.loads(done.stdout)
    return answer["disk"], answer["line"]


def main(arguments: list[str]) -> int:
    """Run on the disk; print what happened."""
    limited = "--limited" in arguments
    with redirect_stdout(sys.stderr):
        line = run_on_full_disk(Path(arguments[0]), limited=limited)
    print(json.dumps({"disk": LIMIT if limited else f"{TMPFS} of {SIZE}", "line": line}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
