"""Kill processes of real federations and see what becomes of their runs.

    python -m simulations.faults
    python -m simulations.faults --kills 20 --seed 0 --results faults

First a run in one process is killed at random moments and within saves, and meets a full disk. Then
processes are killed by SIGKILL in runs on a real federation (ServerApp, SuperLink, superexec,
SuperNode, ClientApp, a node's resident process) and on Ray (an actor), at moments that the seed
draws; killed services come back at growing intervals, runs that failed go on by run.resume. The
exit status is 0 if, and only if, every run came to its end, with the bits of an undisturbed run
where no client was left out of a round. Writes faults.json and faults.md to the folder. Takes about
half an hour on two cores (docs/research/faults.md).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from potara_flwr.command.exit_status import exit_status
from potara_flwr.core.errors import SettingsError
from potara_flwr.running.processes import interrupt_on_sigterm
from simulations.faults.diary import Diary
from simulations.faults.disturbing import Disturber
from simulations.faults.here import Finding, faults_in_one_process
from simulations.faults.local import finish
from simulations.faults.plan import PlannedRun, draw_plan
from simulations.faults.subject import NAMES, adapters_here, settings_of
from simulations.faults.table import (
    FINDINGS,
    KILLS,
    findings_rows,
    kills_rows,
    on_screen,
)
from simulations.faults.worlds import World, actors, real_processes
from simulations.measuring import parser_of


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = parser_of("faults", __doc__)
    parser.add_argument("--kills", type=int, default=20, help="number of kills (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="draws what and when (default: 0)")
    parser.add_argument(
        "--results", type=Path, metavar="FOLDER", help="a new folder (default: results/<time>)"
    )
    return parser.parse_args(arguments)


def faults(diary: Diary, console: Console) -> None:
    """Do everything, and write it down.

    Raises
    ------
    PotaraError
        Something did not even begin, or a run in one process did not come to its end.
    """

    def say(text: str) -> None:
        line = f"{time.strftime('%H:%M:%S')} {text}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    folder = diary.folder
    finish(settings_of({}), folder / "whole", folder / "whole.log")
    expected = adapters_here(folder / "whole")
    diary.add(faults_in_one_process(folder / "one-process", expected, diary.seed, say))
    plan = draw_plan(diary.kills, diary.seed)

    def disturb(world: World, runs: Sequence[PlannedRun], name: str) -> None:
        disturber = Disturber(world, folder / name, expected, say)
        diary.add([Finding(f"nothing, on {name}", "finished", disturber.measure())])
        waiting, number = deque(runs), 0
        while waiting:
            number += 1
            planned = waiting.popleft()
            struck, left = disturber.run(planned, f"{name}-{number}")
            diary.add(struck=struck)
            if left:  # the run was over before they came
                waiting.append(PlannedRun(planned.strict, tuple(left)))

    if plan.actors:
        say("starting a SuperLink for simulations on Ray")
        with actors() as ray:
            disturb(ray, plan.actors, "ray")
    if plan.processes:
        say(f"starting a SuperLink, a superexec and {len(NAMES)} SuperNodes")
        with real_processes(folder / "federation") as processes:
            disturb(processes, plan.processes, "processes")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; return the exit status."""
    args = parse_arguments(arguments)
    interrupt_on_sigterm()
    folder = args.results or Path("results") / f"faults-{time.strftime('%Y-%m-%d_%H-%M-%S')}"
    diary = Diary(folder.expanduser().absolute(), args.kills, args.seed)
    return exit_status(lambda: keep(diary))


def keep(diary: Diary) -> int:
    """Disturb and write it down in the diary's folder; return the exit status."""
    console, folder = Console(), diary.folder
    if folder.exists():
        raise SettingsError(f"--results: {folder} is there already; name a new folder")
    folder.mkdir(parents=True)
    faults(diary, console)
    console.print(on_screen(FINDINGS, findings_rows(diary.findings)))
    console.print(on_screen(KILLS, kills_rows(diary.struck)))
    console.print(f"{folder / 'faults.json'}: {'all ended well' if diary.well else 'NOT WELL'}")
    return 0 if diary.well else 1


if __name__ == "__main__":
    sys.exit(main())
