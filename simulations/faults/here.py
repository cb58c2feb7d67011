"""Faults of one process: killed at random moments, killed within a save, a full disk."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from potara_flwr.core.errors import RunError
from potara_flwr.core.storage import load_record
from potara_flwr.results.folder import CHECKPOINT
from simulations.faults.full_disk import full_disk, mounting_allowed
from simulations.faults.local import (
    Save,
    finish,
    kill_again_and_again,
    next_attempt,
    run_until_save,
    start,
)
from simulations.faults.subject import adapters_here, settings_of

KILLS = 5
SAVES = {
    "the checkpoint": Save("checkpoint.safetensors", 2),
    "what a client has trained": Save("local-training.safetensors"),
    "a client's adapters": Save("clients/1"),
    "a client's report": Save("1/personalized.safetensors"),
    "results.json": Save("results.json"),
}
"""What a run saves, of the saves that are cut short."""


@dataclass(frozen=True)
class Finding:
    """What was done to a run, and how it ended."""

    fault: str
    then: str
    equal: bool
    """Whether its adapters are those of the undisturbed run."""


def faults_in_one_process(
    folder: Path, expected: Mapping[str, bytes], seed: int, say: Callable[[str], None]
) -> list[Finding]:
    """Do all of them; return what was found.

    Raises
    ------
    RunError
        A run did not come to its end.
    """
    folder.mkdir()
    findings = []

    def found(fault: str, then: str, results: Path) -> None:
        equal = adapters_here(results) == dict(expected)
        findings.append(Finding(fault, then, equal))
        say(f"{fault}: {then}: {'equal bits' if equal else 'OTHER BITS'}")

    places = kill_again_and_again(settings_of({}), folder, seed, KILLS)
    found(
        f"{KILLS} kills at random moments",
        f"resumed, {len(places) - 1} times begun anew",
        places[-1],
    )
    for number, (what, save) in enumerate(SAVES.items(), start=1):
        place, log = folder / f"save-{number}", folder / f"save-{number}.log"
        process = start(log, run_until_save, next_attempt(settings_of({}), place), save)
        process.join()
        if process.exitcode != -signal.SIGKILL:
            raise RunError(f"the save of {what} was not met; the run's log is in {log}")
        progress, _ = load_record(place / CHECKPOINT)
        finish(settings_of({}), place, log)
        found(f"kill within the save of {what}", f"resumed after round {progress['round']}", place)
    disk, line = full_disk(folder / "disk", limited=not mounting_allowed())
    found(f"a full disk ({disk})", f"ended ({_short(line)}), resumed", folder / "disk" / "results")
    return findings


def _short(line: str) -> str:
    """Return the first part of an error's line, without folders."""
    return " ".join(word.rpartition("/")[2] for word in line.partition(";")[0].split())
