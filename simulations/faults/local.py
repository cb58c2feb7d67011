"""Whole runs in one process that dies: killed at any moment, or within a save."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import signal
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

from potara_flwr.core.errors import RunError
from potara_flwr.in_process import run_in_process
from potara_flwr.results.folder import CHECKPOINT, RESULTS, read_results
from potara_flwr.run_config import from_flat
from potara_flwr.settings.groups import Value
from potara_flwr.settings.schema import Settings

_PROCESSES = multiprocessing.get_context("forkserver")
# Every process is a fork of one that has imported all this and computed nothing.
_PROCESSES.set_forkserver_preload(
    ["flwr_datasets", "transformers.models.vit.modeling_vit", __name__]
)


def start(log: Path, function: Callable[..., None], *arguments: Any) -> BaseProcess:
    """Start a function in a process of its own, whose output goes to the end of ``log``."""
    process = _PROCESSES.Process(target=_logged, args=(log, function, *arguments))
    process.start()
    return process


def _logged(log: Path, function: Callable[..., None], *arguments: Any) -> None:
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    function(*arguments)


def run_whole(flat: dict[str, Value]) -> None:
    """Run to the end."""
    run_in_process(from_flat(flat))


class Save(NamedTuple):
    """One of a run's saves, known by what it puts in its place."""

    end: str
    """Of the path of the file or the folder."""
    number: int = 1
    """Counted among the saves to such paths."""


def run_until_save(flat: dict[str, Value], save: Save) -> None:
    """Run, and die of SIGKILL in a save: all is written, nothing renamed."""
    replace, saves = os.replace, itertools.count(1)

    def renamed(source: Any, destination: Any) -> None:
        if Path(destination).match(save.end) and next(saves) == save.number:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, destination)

    os.replace = renamed  # type: ignore[assignment]
    run_in_process(from_flat(flat))


def next_attempt(settings: Settings, folder: Path) -> dict[str, Value]:
    """Return the settings by which a run whose process is gone is finished: it goes on, or, where
    no round was finished, begins anew in another folder.
    """
    flat = settings.to_flat() | {"run.results": str(folder), "run.resume": ""}
    if (folder / CHECKPOINT).is_file():
        flat |= {"run.results": "", "run.resume": str(folder)}
    return flat


def finish(settings: Settings, folder: Path, log: Path) -> None:
    """Run, or go on with a run, to its end.

    Raises
    ------
    RunError
        It did not come to its end.
    """
    process = start(log, run_whole, next_attempt(settings, folder))
    process.join()
    if process.exitcode != 0 or not (folder / RESULTS).is_file():
        raise RunError(f"the run ended with status {process.exitcode}; its log is in {log}")


def kill_again_and_again(settings: Settings, folder: Path, seed: int, kills: int) -> list[Path]:
    """Kill a run's process at random moments, and have it go on each time, to its end.

    Parameters
    ----------
    folder : Path
        Gets the results: of an undisturbed run, ``whole``, and of the other, the last of the paths
        that are returned.

    Raises
    ------
    RunError
        It did not come to its end.
    """
    log, rng = folder / "process.log", random.Random(seed)  # noqa: S311
    finish(settings, folder / "whole", log)
    seconds = sum(read_results(folder / "whole")["seconds"].values())
    places = [folder / "killed-0"]
    done = 0
    while done < kills:
        process = start(log, run_whole, next_attempt(settings, places[-1]))
        process.join(rng.random() * seconds)
        if process.exitcode is not None and not (places[-1] / RESULTS).is_file():
            raise RunError(f"the run ended with {process.exitcode}; its log is in {log}")
        if process.exitcode is None:
            process.kill()
            process.join()
            done += 1
        if (places[-1] / RESULTS).is_file() or not (places[-1] / CHECKPOINT).is_file():
            places.append(folder / f"killed-{len(places)}")
    finish(settings, places[-1], log)
    return places
