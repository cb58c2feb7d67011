"""A run through the real ``flwr run``, on a SuperLink of its own, whose end is the truth.

Flower's own local SuperLink stays after the run and is found by its port alone, so that a later run
inherits its folder, environment and code; it installs the app's dependencies anew for each run; and
``flwr run`` says 0 whatever becomes of the app. Here each run has a fresh SuperLink on a free port,
with its own home, that is gone when the run is, and the run's status decides.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from potara_flwr.config import Settings
from potara_flwr.errors import RunError
from potara_flwr.results import claimed_folder, results_folder
from simulations.display import LiveDisplay

PROJECT = Path(__file__).parent.parent
CONNECTION = "potara"
START_SECONDS = 60
STOP_SECONDS = 15


def run_with_flower(settings: Settings, display: LiveDisplay, cpus_per_client: int = 1) -> Path:
    """Run a simulation through ``flwr run``; return the results folder.

    Raises
    ------
    SettingsError
        The results folder cannot be written or is used by another run.
    RunError
        The SuperLink did not start, the submission was refused, or the run failed.
    """
    results = results_folder(settings, 0)
    with claimed_folder(settings, results), superlink() as environment:
        run_id = submit(settings, environment, cpus_per_client)
        display.say(f"flwr run {run_id} on {settings.data.num_clients} SuperNodes")
        log = follow(run_id, environment, display)
        status = status_of(run_id, environment)
        if status != "finished:completed" or not (results / "results.json").is_file():
            if display.error:
                raise RunError(display.error)
            place = results.with_name(results.name + ".log")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(log)
            raise RunError(f"the run ended as {status}; its log is in {place}")
    return results


@contextmanager
def superlink() -> Iterator[dict[str, str]]:
    """Start a SuperLink for simulations; yields the environment in which ``flwr`` finds it."""
    # Short, because Ray keeps sockets in it, whose paths are limited to about 107 bytes.
    home = Path(tempfile.mkdtemp(prefix="potara-"))
    port = free_port()
    environment = os.environ | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "FLWR_HOME": str(home),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "PYTHONUNBUFFERED": "1",
        "RAY_DEDUP_LOGS": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TMPDIR": str(home),
    }
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "{CONNECTION}"\n\n'
        f'[superlink.{CONNECTION}]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    with (home / "superlink.log").open("w") as log:
        process = subprocess.Popen(
            [
                "flower-superlink", "--insecure", "--simulation", "--isolation", "subprocess",
                "--host", "127.0.0.1", "--port", str(port),
                "--control-api-address", f"127.0.0.1:{free_port()}",
                "--database", str(home / "state.db"),
            ],
            cwd=home, env=environment, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        _wait_until_healthy(process, port, home / "superlink.log")
        yield environment
    finally:
        stop(process)
        shutil.rmtree(home, ignore_errors=True)


def submit(settings: Settings, environment: dict[str, str], cpus_per_client: int = 1) -> str:
    """Submit the app through ``flwr run``; return the run id.

    Ray starts as many actors as ``cpus_per_client`` goes into the machine's cores.
    """
    # A file, for of several -c options Flower keeps only the last one of each group.
    overrides = Path(environment["FLWR_HOME"]) / "settings.toml"
    overrides.write_text(
        "".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.to_flat().items())
    )
    federation = (
        f"num-supernodes={settings.data.num_clients} client-resources-num-cpus={cpus_per_client}"
    )
    answer = flwr(
        ["run", str(PROJECT), CONNECTION, "--federation-config", federation, "-c", str(overrides)],
        environment,
    )
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


def free_port() -> int:
    """Return a loopback port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and everything it started, Ray's processes among them."""
    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    for member in family:
        if member.is_running():
            member.terminate()
    _, alive = psutil.wait_procs(family, timeout=STOP_SECONDS)
    for member in alive:
        member.kill()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_until_healthy(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health", timeout=1).is_success:
                return
        except httpx.HTTPError:
            time.sleep(0.1)
    last = log.read_text().strip().splitlines()[-1:] or ["it said nothing"]
    raise RunError(f"the SuperLink did not start: {last[0]}")
