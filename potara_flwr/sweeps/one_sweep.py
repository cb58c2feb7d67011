"""One sweep: its jobs, where they go, which of them are left to run, and what came out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from potara_flwr.core.errors import RunError, SettingsError
from potara_flwr.results.tables import NONE, number, percent
from potara_flwr.running.composition import compose_sweep
from potara_flwr.settings.schema import Settings
from potara_flwr.sweeps.jobs import Job, label_of
from potara_flwr.sweeps.launching import launch, locked

SWEEPS = Path("results") / "sweeps"


def plan(runs: Sequence[tuple[Sequence[str], Settings]], folder: Path) -> list[Job]:
    """Return the sweep's jobs.

    Raises
    ------
    SettingsError
        Two runs have the same settings, or their words name a folder.
    """
    common = common_names([words for words, _ in runs])
    jobs: dict[str, Job] = {}
    for words, settings in runs:
        if settings.run.results or settings.run.earlier[0]:
            name = settings.run.earlier[0] or "run.results"
            raise SettingsError(f"a sweep names the folders of its runs: leave out {name}")
        job = Job(label_of(words, common), settings, folder)
        if job.key in jobs:
            raise SettingsError(f"two runs have the same settings: {' '.join(words)}")
        jobs[job.key] = job
    return list(jobs.values())


def common_names(runs: Sequence[Sequence[str]]) -> list[str]:
    """Return the names of the settings that all runs are given alike."""
    words = set(runs[0]).intersection(*runs[1:]) if len(runs) > 1 else ()
    return [word.partition("=")[0] for word in runs[0] if word in words]


def default_folder(runs: Sequence[Sequence[str]]) -> Path:
    """Return the folder of a sweep that names none: that of its experiments."""
    words = dict.fromkeys(word for run in runs for word in run if word.startswith("experiment="))
    return SWEEPS / ("+".join(word.partition("=")[2] for word in words) or "default")


def outcome_table(jobs: Sequence[Job], kept: Sequence[Job]) -> Table:
    """Return what became of every run, as a table for a terminal."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="Runs", title_justify="left")
    table.add_column("run", overflow="fold")
    table.add_column("state")
    table.add_column("accuracy %", justify="right")
    table.add_column("loss", justify="right")
    for job in jobs:
        results = job.results()
        if results is None:
            table.add_row(Text(job.label), "failed", NONE, NONE, style="bold")
            continue
        mean = results["summary"]["mean"]
        scores = percent(mean["accuracy"]["personalized"]), number(mean["loss"]["personalized"], 3)
        table.add_row(Text(job.label), "kept" if job in kept else "done", *scores)
    return table


def sweep_and_show(words: Sequence[str], results: Path | None) -> bool:
    """Make the runs that are not there yet, and show all; return whether every run has results.

    Raises
    ------
    PotaraError
        A setting is wrong, or the folder cannot be used.
    """
    config, runs = compose_sweep(words)
    all_words = [run for run, _ in runs]
    folder = (results or default_folder(all_words)).expanduser().absolute()
    jobs = plan(runs, folder)
    with locked(folder):
        kept = [job for job in jobs if job.results()]
        for job in jobs:  # what a sweep that was killed has left is not the run's doing
            job.attempts.unlink(missing_ok=True)
        for job in kept:
            print(f"kept: {job.label}", flush=True)
        if len(kept) < len(jobs):
            try:
                launch(words, config, folder, common_names(all_words))
            except RunError as error:
                print(f"error: {error}", file=sys.stderr)
        failed = [job for job in jobs if not job.results()]

    Console().print(outcome_table(jobs, kept))
    for job in failed:
        reason = job.error() or "it was not finished; the same command continues"
        print(f"failed: {job.label}: {reason}", file=sys.stderr)
    counts = f"{len(jobs) - len(kept) - len(failed)} done, {len(kept)} kept, {len(failed)} failed"
    print(f"runs: {counts}")
    print(f"compare: potara compare {folder}")
    print(f"results: {folder}")
    return not failed
