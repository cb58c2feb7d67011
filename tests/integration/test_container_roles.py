"""The roles of the image as real processes: a federation as compose.yaml has it, without Docker."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from own_processes import HANGING
from run_words import words_of

from potara_flwr.in_process import run_in_process
from potara_flwr.results.folder import read_results
from potara_flwr.run_config import from_flat
from potara_flwr.running.processes import free_port, stop_all

pytestmark = [pytest.mark.integration, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
NODES = ("node-0", "node-1")


class Containers:
    """Roles as processes; each has a folder for what would be its volume."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.superlink = f"localhost:{free_port()}"
        self.processes: list[subprocess.Popen[bytes]] = []

    def environment(self, name: str, **variables: str) -> dict[str, str]:
        """Return what the Dockerfile and compose.yaml set, on free ports and other folders."""
        home = self.folder / name
        home.mkdir(exist_ok=True)
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        return {
            **os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "TMPDIR": "/tmp",
            "FLWR_HOME": str(home / "flwr"), "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "FLWR_DISABLE_UPDATE_CHECK": "1", "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1", "PYTHONUNBUFFERED": "1",
            "POTARA_HOST": "127.0.0.1", "POTARA_SUPERLINK": self.superlink,
            "POTARA_STATE": str(home),
            "POTARA_CREDENTIALS": str(self.folder / "credentials" / name),
            **variables,
        }  # fmt: skip

    def task(self, *words: str, name: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a role that ends."""
        return subprocess.run(
            [ROOT / "docker" / "entrypoint.sh", *words], cwd=self.folder, timeout=HANGING,
            env=self.environment(name, **variables), capture_output=True, text=True, check=False,
        )  # fmt: skip

    def start(self, *words: str, name: str, **variables: str) -> None:
        """Start a role that stays, and wait until it says that it is well."""
        environment = self.environment(name, POTARA_HEALTH=f"127.0.0.1:{free_port()}", **variables)
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [ROOT / "docker" / "entrypoint.sh", *words], cwd=self.folder, env=environment,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self.processes.append(process)
        deadline = time.monotonic() + HANGING
        health = [sys.executable, ROOT / "docker" / "health.py"]
        while subprocess.run(health, env=environment, capture_output=True, check=False).returncode:
            log_text = (self.folder / f"{name}.log").read_text()
            assert process.poll() is None, log_text
            assert time.monotonic() < deadline, log_text


@pytest.fixture
def containers(tmp_path):
    running = Containers(tmp_path)
    try:
        yield running
    finally:
        stop_all(running.processes)
    assert not any(psutil.pid_exists(process.pid) for process in running.processes)


def test_a_federation_of_containers_gives_the_bits_of_one_process(tiny, containers):
    folder = containers.folder
    made = containers.task("credentials", *NODES, name=".")
    assert made.returncode == 0, made.stderr
    containers.start("superlink", name="superlink")
    for said in ("registered", "was registered before"):
        registered = containers.task("register", name="client")
        assert registered.returncode == 0, registered.stderr
        assert registered.stdout.splitlines() == [f"{node}: {said}" for node in NODES]
    containers.start("superexec", name="superexec")
    for node in NODES:
        config = f'name="{node}" state-dir="{folder / node / "state"}"'
        port = str(free_port())
        containers.start("supernode", "--port", port, name=node, POTARA_NODE=config)

    settings = tiny(
        {
            "data.num-clients": 2,
            "federation.nodes": ",".join(NODES),
            "federation.rounds": 1,
            "federation.fraction-evaluate": 0.0,
        }
    )
    words = words_of(settings)
    ran = containers.task("run", *words, f"run.results='{folder / 'out'}'", name="client")

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.splitlines()[-1] == f"results: {folder / 'out'}"
    here = run_in_process(from_flat({**settings.to_flat(), "run.results": str(folder / "here")}))
    assert read_results(folder / "out")["digest"] == read_results(here)["digest"]

    again = containers.task("run", *words, "lora.rnk=2", name="client")
    assert again.returncode == 1
    assert again.stderr == "error: unknown setting 'lora.rnk'; did you mean lora.rank?\n"
