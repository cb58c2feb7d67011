"""The ``flwr`` command: submit the app to a SuperLink, follow the run, and learn how it ended.

``flwr run`` says 0 whatever becomes of the app; the run's status decides.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from potara_flwr.core.errors import RunError, one_line
from potara_flwr.data.sources import joined, listed
from potara_flwr.results.folder import results_folder
from potara_flwr.running.display import LiveDisplay
from potara_flwr.running.processes import STOP_SECONDS
from potara_flwr.settings.schema import Settings

PACKAGE = Path(__file__).parents[1]
CARRIED = PACKAGE / "flower_app"
"""What ``flwr run`` wants to find beside the package, where that comes from a wheel."""
CONNECTION = "potara"

FIRST_EXCEPTION = re.compile(r"^[\w.]*(?:Error|Exception): (.*\w)", re.MULTILINE)
"""The cause, of a chain of exceptions in a log."""
LAST_LINES_SECONDS = 8.0
"""How long to wait for the last lines of a run that has failed: an app's process has 3 s before it
tells its end and 3 s after it (``flush_logs`` and ``stop_log_uploader`` of Flower 1.41).
"""


def environment_of(home: Path, **more: str) -> dict[str, str]:
    """Return the environment of Flower's processes and commands: its ``home``, no telemetry, no
    installing at run time, and the commands of this Python on the path.
    """
    return os.environ | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "FLWR_HOME": str(home),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "PYTHONUNBUFFERED": "1",
        **more,
    }


def app_folder(home: Path) -> Path:
    """Return the folder that ``flwr run`` packs, made in Flower's ``home`` of the package and
    what a clone has beside it: in the clone itself Flower would walk all of ``.venv``.
    """
    beside = CARRIED if CARRIED.is_dir() else PACKAGE.parent
    folder = home / "potara-flwr"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(beside / name, folder)
    for file in PACKAGE.rglob("*.py"):
        place = folder / file.relative_to(PACKAGE.parent)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)
    return folder


def write_connection(home: Path, address: str, ca_certificate: Path | None = None) -> None:
    """Tell ``flwr`` commands whose home this is where the SuperLink is, and whom to trust."""
    home.mkdir(parents=True, exist_ok=True)
    trust = (
        "insecure = true" if ca_certificate is None else f'root-certificates = "{ca_certificate}"'
    )
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "{CONNECTION}"\n\n'
        f'[superlink.{CONNECTION}]\naddress = "{address}"\n{trust}\n'
    )


def run_app(
    settings: Settings,
    environment: dict[str, str],
    display: LiveDisplay,
    words: str,
    federation_config: str = "",
) -> Path:
    """Submit the app, follow it to its end, and return the results folder.

    Parameters
    ----------
    words : str
        Where it runs, for the line that tells the run's number.
    federation_config : str
        How Flower simulates the nodes; empty where they are real.

    Raises
    ------
    RunError
        The submission was refused, or the run failed.
    """
    results = results_folder(settings, 0)
    run_id = submit(found_from_anywhere(settings), environment, federation_config)
    display.say(f"flwr run {run_id} {words}")
    log = follow(run_id, environment, display)
    status = status_of(run_id, environment)
    if status != "finished:completed" or not (results / "results.json").is_file():
        if not display.error:
            log = rest_of_log(run_id, environment, display, log)
        if display.error:
            raise RunError(display.error)
        place = results.with_name(results.name + ".log")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(log)
        cause = FIRST_EXCEPTION.search(log)
        why = f" ({one_line(cause[1])})" if cause else ""
        raise RunError(f"the run ended as {status}{why}; its log is in {place}")
    return results


def found_from_anywhere(settings: Settings) -> Settings:
    """Return the settings with absolute paths in place of relative ones that lead somewhere: the
    processes of a federation run in folders of their own.
    """

    def absolute(name: str) -> str:
        place = Path(name).expanduser()
        return str(place.absolute()) if name and place.exists() else name

    data, task = settings.data, settings.task
    paths = [absolute(path) for path in listed(data.path)]
    path = paths[0] if len(paths) == 1 else joined(paths)
    places = {"path": path, "root": absolute(data.root)}
    return settings.model_copy(
        update={
            "data": data.model_copy(update=places),
            "task": task.model_copy(update={"model": absolute(task.model)}),
        }
    )


def submit(settings: Settings, environment: dict[str, str], federation_config: str = "") -> str:
    """Submit the app through ``flwr run``; return the run id."""
    # A file, for of several -c options Flower keeps only the last one of each group.
    home = Path(environment["FLWR_HOME"])
    overrides = home / "settings.toml"
    overrides.write_text(
        "".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.to_flat().items())
    )
    simulated = ["--federation-config", federation_config] if federation_config else []
    words = [str(app_folder(home)), CONNECTION, *simulated, "-c", str(overrides)]
    answer = flwr(["run", *words], environment)
    return str(answer["run-id"])


def status_of(run_id: str, environment: dict[str, str]) -> str:
    """Return a run's status, such as ``finished:completed``, once it has finished."""
    deadline = time.monotonic() + STOP_SECONDS
    while True:
        answer = flwr(["list", CONNECTION, "--run-id", run_id], environment)
        status = str(answer["runs"][0]["status"])
        if status.startswith("finished") or time.monotonic() > deadline:
            return status
        time.sleep(0.5)


def follow(run_id: str, environment: dict[str, str], display: LiveDisplay) -> str:
    """Show a run's log as it comes, until the run ends; return all of it."""
    lines = []
    with subprocess.Popen(
        ["flwr", "log", run_id, CONNECTION, "--stream"],
        env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        try:
            for line in process.stdout or ():
                lines.append(line)
                display.feed(line)
        finally:
            process.terminate()
    return "".join(lines)


def rest_of_log(
    run_id: str, environment: dict[str, str], display: LiveDisplay, followed: str
) -> str:
    """Show what of a log came after the run's end; return all of it.

    Flower's stream ends when it sees the run's status, and the processes of an app send their last
    lines in the seconds around that. On a busy machine one look may take longer than all of these:
    the last one begins after them.
    """
    deadline = time.monotonic() + LAST_LINES_SECONDS
    seen = len(followed.splitlines())
    is_last = False
    while not display.error and not is_last:
        is_last = time.monotonic() > deadline
        done = subprocess.run(
            ["flwr", "log", run_id, CONNECTION, "--show"],
            env=environment, text=True, capture_output=True, check=False,
        )  # fmt: skip
        lines = done.stdout.splitlines()
        for line in lines[seen:]:
            display.feed(line)
        if len(lines) > seen:
            seen, followed = len(lines), done.stdout
        time.sleep(0.5)
    return followed


def flwr(arguments: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """Run a ``flwr`` command and return the JSON it answers with; raise RunError where it fails."""
    done = subprocess.run(
        ["flwr", *arguments, "--format", "json"],
        env=environment, text=True, capture_output=True, check=False,
    )  # fmt: skip
    start = done.stdout.find("{")
    answer = json.loads(done.stdout[start:]) if start >= 0 else {}
    if done.returncode != 0 or not answer.get("success", False):
        said = answer.get("error-message") or done.stderr.strip() or done.stdout.strip()
        raise RunError(f"flwr {arguments[0]} failed: {' '.join(str(said).split())}")
    return answer
