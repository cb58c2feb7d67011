"""The runs of a sweep: each in a folder of its own, by which it is known again."""

from __future__ import annotations

import os
import re
import shutil
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console

from potara_flwr.core.errors import PotaraError, RunError, SettingsError
from potara_flwr.results.folder import read_results
from potara_flwr.running.composition import settings_of
from potara_flwr.running.display import LiveDisplay
from potara_flwr.running.one_run import run_displayed
from potara_flwr.settings.fingerprint import differences, fingerprint
from potara_flwr.settings.schema import Settings

LONGEST = 150
"""Characters of the words in a folder's name; file systems take names of 255 bytes."""
ERROR = "error.txt"
MOST_ATTEMPTS = 3
"""Ray starts a run again whose process has died; so often at most: then it is the run's doing."""


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Its folder's name tells its words and ends in a hash of its settings. The hash alone decides:
    a run that another sweep of the same name has made is this one's too.
    """

    label: str
    """The words in which it differs from the sweep's other runs."""
    settings: Settings
    sweep: Path

    @property
    def folder(self) -> Path:
        """Its results folder: the one that is there already, or the one to be."""
        there = sorted(self.sweep.glob(f"*{self.key}"))
        words = re.sub(r"[^\w.,=+-]", "_", self.label)[:LONGEST]
        return there[0] if there else self.sweep / f"{words}-{self.key}"

    @property
    def key(self) -> str:
        """Hash of its settings but ``run``."""
        return fingerprint(self.settings.computed())[:10]

    def results(self) -> dict[str, Any] | None:
        """Return its results; None where it is not done.

        Raises
        ------
        SettingsError
            The results in its folder were made with other settings.
        """
        if not (self.folder / "results.json").is_file():
            return None
        results = read_results(self.folder)
        if differences(results["config"], self.settings.computed()):
            raise SettingsError(f"{self.folder} was made with other settings; remove it")
        return results

    def error(self) -> str:
        """Return the line that says why it failed, empty where it did not."""
        file = self.folder / ERROR
        return file.read_text().partition("\n")[0] if file.is_file() else ""

    @property
    def attempts(self) -> Path:
        """File with the process id of every attempt whose end nobody has seen."""
        return self.sweep / f".{self.key}.attempts"


def label_of(words: Sequence[str], common: Sequence[str]) -> str:
    """Return a run's words, but those whose names are ``common`` to all runs, with commas."""
    differing = [word for word in words if word.partition("=")[0] not in common]
    return ",".join(differing) or "default"


def take_up(config: DictConfig) -> None:
    """Do one run of a sweep, unless it is done; Hydra's launchers call this.

    What fails is written to ``error.txt`` in the run's folder, and the sweep goes on.
    """
    hydra = HydraConfig.get()
    label = label_of(hydra.overrides.task, hydra.job.config.override_dirname.exclude_keys)
    job = Job(label, settings_of(config), Path(hydra.sweep.dir))
    try:
        if job.results() is None:
            _attempt(job)
            run_job(job)
    except Exception as error:  # noqa: BLE001
        # Whatever a run raises, a bug among it, is shown and does not take the others along.
        _fail(job, error)
    job.attempts.unlink(missing_ok=True)


def _attempt(job: Job) -> None:
    """Write down that a process takes up the run.

    Raises
    ------
    RunError
        Several processes have, and died of it.
    """
    file = job.attempts
    before = file.read_text().split() if file.is_file() else []
    if len(before) >= MOST_ATTEMPTS:
        raise RunError(
            f"its process died {len(before)} times without a word: out of memory? Give a run more "
            "of the machine (docs/guides/sweeps.md)"
        )
    file.write_text(" ".join([*before, str(os.getpid())]))


def run_job(job: Job) -> None:
    """Run from the start: what a run that was killed has left is removed first."""
    folder = job.folder
    if folder.is_dir():
        shutil.rmtree(folder)
    print(f"run: {job.label}", flush=True)
    where = job.settings.run.model_copy(update={"results": str(folder)})
    with LiveDisplay(Console(), lines=False) as display:
        run_displayed(job.settings.model_copy(update={"run": where}), display)
    accuracy = read_results(folder)["summary"]["mean"]["accuracy"]["personalized"]
    print(f"done: {job.label} · accuracy {accuracy:.3f}", flush=True)


def _fail(job: Job, error: Exception) -> None:
    line = " ".join(str(error).split())
    if not isinstance(error, PotaraError):
        line = f"{type(error).__name__}: {line}"
    print(f"failed: {job.label}: {line}", file=sys.stderr, flush=True)
    folder = job.folder
    folder.mkdir(exist_ok=True)
    trace = "".join(traceback.format_exception(error))
    (folder / ERROR).write_text(f"{line}\n\n{trace}")
