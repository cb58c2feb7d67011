"""A simulation through the real ``flwr run``, on a SuperLink of its own, whose end is the truth.

Flower's own local SuperLink stays after the run and is found by its port alone, so that a later run
inherits its folder, environment and code; and it installs the app's dependencies anew for each run.
Here each run has a fresh SuperLink on a free port, with its own home, that is gone when the run is.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from potara_flwr.results.folder import claimed_folder, results_folder
from potara_flwr.running.display import LiveDisplay
from potara_flwr.running.flower_cli import environment_of, run_app, write_connection
from potara_flwr.running.processes import Service, free_port
from potara_flwr.settings.schema import Settings


def run_with_flower(settings: Settings, display: LiveDisplay, cpus_per_client: int = 1) -> Path:
    """Run a simulation through ``flwr run``; return the results folder.

    Parameters
    ----------
    cpus_per_client : int
        Ray starts as many actors as this goes into the machine's cores.

    Raises
    ------
    SettingsError
        The results folder cannot be written or is used by another run.
    RunError
        The SuperLink did not start, the submission was refused, or the run failed.
    """
    nodes = settings.data.num_clients
    simulated = f"num-supernodes={nodes} client-resources-num-cpus={cpus_per_client}"
    folder = results_folder(settings, 0)
    with claimed_folder(settings, folder), superlink() as environment:
        return run_app(settings, environment, display, f"on {nodes} SuperNodes", simulated)


@contextmanager
def superlink() -> Iterator[dict[str, str]]:
    """Start a SuperLink for simulations; yields the environment in which ``flwr`` finds it."""
    # Short, because Ray keeps sockets in it, whose paths are limited to about 107 bytes.
    home = Path(tempfile.mkdtemp(prefix="potara-"))
    address = f"127.0.0.1:{free_port()}"
    environment = environment_of(
        home, RAY_DEDUP_LOGS="0", RAY_USAGE_STATS_ENABLED="0", RAY_TMPDIR=str(home)
    )
    write_connection(home, address)
    service = Service(
        "the SuperLink",
        [
            "flower-superlink", "--insecure", "--simulation", "--isolation", "subprocess",
            "--host", "127.0.0.1", "--port", address.rpartition(":")[2],
            "--control-api-address", f"127.0.0.1:{free_port()}",
            "--database", str(home / "state.db"),
        ],
        environment,
        home / "superlink.log",
    )  # fmt: skip
    try:
        service.start()
        service.wait_until_healthy(address)
        yield environment
    finally:
        service.stop()
        shutil.rmtree(home, ignore_errors=True)
