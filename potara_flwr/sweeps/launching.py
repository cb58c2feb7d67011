"""Hydra's multirun, started from Python: on a locked folder, with nothing of Ray left behind."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import hydra
from omegaconf import DictConfig

from potara_flwr.core.errors import RunError, SettingsError
from potara_flwr.running.composition import CONF, VERSION_BASE
from potara_flwr.sweeps.jobs import take_up

# Ray reads it when it is imported, which Hydra does on looking for its launchers.
os.environ.setdefault("RAY_DEDUP_LOGS", "0")

REACH_SECONDS = 5


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make the folder where it is not there, and keep other sweeps out of it.

    Raises
    ------
    SettingsError
        The folder cannot be written, or another sweep is at work in it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise SettingsError(f"the folder {folder} cannot be written ({error.strerror})") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise SettingsError(f"another sweep is at work in {folder}") from None
    finally:
        os.close(handle)


def launch(words: Sequence[str], config: DictConfig, folder: Path, common: Sequence[str]) -> None:
    """Have Hydra run all jobs of a sweep.

    Parameters
    ----------
    words : Sequence[str]
        The sweep's words.
    config : DictConfig
        What Hydra made of them.
    folder : Path
        The sweep's folder.
    common : Sequence[str]
        Names of the settings that all jobs share: they do not stand in a job's label.

    Raises
    ------
    SettingsError
        There is no Ray cluster at the address.
    RunError
        A process of Ray died, again and again.
    """
    on_ray = config.hydra.runtime.choices["hydra/launcher"] == "ray"
    address = (
        (config.hydra.launcher.ray.init.address or os.environ.get("RAY_ADDRESS"))
        if on_ray
        else None
    )
    if address:
        check_reachable(address)
    command = [
        "sweep",
        *(ray_words(address) if on_ray else ()),
        *words,
        f"hydra.sweep.dir='{folder}'",
        f"hydra.job.config.override_dirname.exclude_keys=[{','.join(common)}]",
    ]
    run = hydra.main(config_path=str(CONF), config_name="sweep", version_base=VERSION_BASE)(take_up)
    # With HYDRA_FULL_ERROR Hydra leaves errors to its caller, who has one line for each.
    with (
        replaced_environment({"HYDRA_FULL_ERROR": "1"}),
        replaced_arguments(command),
        quiet_ray() if on_ray else nullcontext(),
    ):
        run()


def ray_words(address: str | None) -> list[str]:
    """Return how Ray is started, where the sweep's words do not say otherwise.

    Parameters
    ----------
    address : str | None
        Of an existing cluster. Without one a Ray of the sweep's own runs on this machine.
    """
    words = [
        "++hydra.launcher.ray.init.include_dashboard=false",
        "++hydra.launcher.ray.init.logging_level=warning",
        "++hydra.launcher.ray.remote.num_cpus=1",
    ]
    if address:
        # The launcher would set it, and an existing cluster refuses it.
        words.append("++hydra.launcher.ray.init.object_store_memory=null")
    return words


def check_reachable(address: str) -> None:
    """Check in seconds that something answers at ``host:port``; Ray itself tries for minutes.

    Raises
    ------
    SettingsError
        Nothing answers.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return  # ``auto``: Ray looks for a cluster on this machine
    try:
        socket.create_connection((host, int(port)), timeout=REACH_SECONDS).close()
    except OSError as error:
        raise SettingsError(
            f"no Ray cluster answers at {address} ({error.strerror or error})"
        ) from None


@contextmanager
def quiet_ray() -> Iterator[None]:
    """Let Ray start with few words and a folder that is gone afterwards, as are its processes.

    Raises
    ------
    SettingsError
        There is no Ray cluster at the address.
    RunError
        A process of Ray died, again and again.
    """
    import ray

    # Short, because Ray keeps sockets in it, whose paths are limited to about 107 bytes.
    home = tempfile.mkdtemp(prefix="potara-")
    environment = {
        "RAY_TMPDIR": home,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    with replaced_environment(environment):
        try:
            yield
        except ConnectionError as error:
            raise SettingsError(f"Ray: {' '.join(str(error).split())}") from None
        except ray.exceptions.RayError as error:
            raise RunError(f"Ray: {' '.join(str(error).split())}") from None
        finally:
            ray.shutdown()
            shutil.rmtree(home, ignore_errors=True)


@contextmanager
def replaced_environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables, and put back what was there."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def replaced_arguments(command: list[str]) -> Iterator[None]:
    """Set ``sys.argv``, which is where Hydra looks for its words."""
    before, sys.argv = sys.argv, command
    try:
        yield
    finally:
        sys.argv = before
