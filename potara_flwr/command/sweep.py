"""Run the app once for each combination of the values given, and show what came out.

    potara sweep lora.rank=2,4,8 data.alpha=0.1,0.5 seed=1,2,3
    potara sweep experiment=paper lora.rank=2,4,8 --results results/sweeps/ranks
    potara sweep hydra/launcher=ray lora.rank=2,4,8

Settings are those of ``potara run``, with several values separated by commas. Hydra's launcher
takes the runs one after the other, or, with ``hydra/launcher=ray``, in parallel on this machine or
on a Ray cluster (docs/guides/sweeps.md). Each run has a folder in the sweep's. The same command
continues a sweep that was stopped: finished runs are kept. The exit status is 0 if, and only if,
every run has results.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from potara_flwr.command.program import exit_status, parser_of
from potara_flwr.core.errors import RunError, SettingsError
from potara_flwr.results.tables import NONE, number, percent
from potara_flwr.running.composition import compose_sweep
from potara_flwr.settings.schema import Settings
from potara_flwr.sweeps.jobs import Job, label_of
from potara_flwr.sweeps.launching import launch, locked

SWEEPS = Path("results") / "sweeps"


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = parser_of("potara_flwr.command.sweep", __doc__)
    parser.add_argument(
        "-m", "--multirun", action="store_true", help="as Hydra calls a sweep; always so here"
    )
    parser.add_argument(
        "--results",
        type=Path,
        metavar="FOLDER",
        help="the sweep's folder (default: results/sweeps/<experiment>)",
    )
    parser.add_argument(
        "settings", nargs="*", metavar="name=value,value", help="settings of the runs"
    )
    return parser.parse_intermixed_args(arguments)


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the sweep; return the exit status."""
    args = parse_arguments(arguments)
    return exit_status(
        lambda: sweep(args.settings, args.results), at_interrupt="the same command continues"
    )


def sweep(settings: Sequence[str], results: Path | None) -> int:
    """Make the runs that are not there yet, and show all; return the exit status."""
    config, runs = compose_sweep(settings)
    folder = results or default_folder([words for words, _ in runs])
    folder = folder.expanduser().absolute()
    jobs = plan(runs, folder)
    with locked(folder):
        kept = [job for job in jobs if job.results()]
        for job in jobs:  # what a sweep that was killed has left is not the run's doing
            job.attempts.unlink(missing_ok=True)
        for job in kept:
            print(f"kept: {job.label}", flush=True)
        if len(kept) < len(jobs):
            try:
                common = common_names([words for words, _ in runs])
                launch(settings, config, folder, common)
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
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
