"""Kill processes of real federations and see what becomes of their runs.

    python -m simulations.faults
    python -m simulations.faults --kills 20 --seed 0 --results faults

First a run in one process is killed at random moments and within saves, and meets a full disk. Then
processes are killed by SIGKILL in runs on a real federation (ServerApp, SuperLink, superexec,
SuperNode, ClientApp) and on Ray (an actor), at moments that the seed draws; killed services come
back at growing intervals, runs that failed go on by run.resume. The exit status is 0 if, and only
if, every run came to its end, with the bits of an undisturbed run where no client was left out of a
round. Writes faults.json and faults.md to the folder. Takes about half an hour on two cores
(docs/faults.md).
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from potara_flwr.errors import PotaraError, SettingsError
from simulations.deploy import interrupt
from simulations.faults.disturbing import Disturber, Struck, write_faults
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
    page,
)
from simulations.faults.worlds import World, actors, real_processes


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    summary, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m simulations.faults",
        description=summary,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kills", type=int, default=20, help="number of kills (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="draws what and when (default: 0)")
    parser.add_argument(
        "--results", type=Path, metavar="FOLDER", help="a new folder (default: results/<time>)"
    )
    return parser.parse_args(arguments)


def disturb_all(disturber: Disturber, runs: Sequence[PlannedRun], prefix: str) -> list[Struck]:
    """Do all planned runs; kills that a run ended before come in another one."""
    struck: list[Struck] = []
    waiting, number = deque(runs), 0
    while waiting:
        number += 1
        planned = waiting.popleft()
        done, left = disturber.run(planned, f"{prefix}-{number}")
        struck += done
        if left:
            waiting.append(PlannedRun(planned.strict, tuple(left)))
    return struck


def faults(
    folder: Path, kills: int, seed: int, console: Console
) -> tuple[list[Finding], list[Struck]]:
    """Do everything; return what was found in one process, and all kills.

    Raises
    ------
    PotaraError
        Something did not even begin.
    """

    def say(text: str) -> None:
        console.print(f"{time.strftime('%H:%M:%S')} {text}", markup=False, highlight=False)

    whole = folder / "whole"
    finish(settings_of({}), whole, folder / "whole.log")
    expected = adapters_here(whole)
    findings = faults_in_one_process(folder / "one-process", expected, seed, say)
    plan, struck = draw_plan(kills, seed), []

    def disturb(world: World, runs: Sequence[PlannedRun], name: str) -> None:
        disturber = Disturber(world, folder / name, expected, say)
        equal = disturber.measure()
        say(f"{name}: an undisturbed run: {'equal bits' if equal else 'OTHER BITS'}")
        findings.append(Finding(f"nothing ({name})", "finished", equal))
        struck.extend(disturb_all(disturber, runs, name))

    if plan.processes:
        say(f"starting a SuperLink, a superexec and {len(NAMES)} SuperNodes")
        with real_processes(folder / "federation") as processes:
            disturb(processes, plan.processes, "processes")
    if plan.actors:
        with actors() as ray:
            disturb(ray, plan.actors, "ray")
    return findings, struck


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; return the exit status."""
    args = parse_arguments(arguments)
    console = Console()
    signal.signal(signal.SIGTERM, interrupt)
    folder = args.results or Path("results") / f"faults-{time.strftime('%Y-%m-%d_%H-%M-%S')}"
    folder = folder.expanduser().absolute()
    begun = time.monotonic()
    try:
        if folder.exists():
            raise SettingsError(f"--results: {folder} is there already; name a new folder")
        folder.mkdir(parents=True)
        findings, struck = faults(folder, args.kills, args.seed, console)
    except PotaraError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: stopped by the user", file=sys.stderr)
        return 130
    well = all(item.well for item in struck) and all(item.equal for item in findings)
    document = {
        "kills": args.kills,
        "seed": args.seed,
        "minutes": round((time.monotonic() - begun) / 60, 1),
        "well": well and len(struck) == args.kills,
        "one_process": [asdict(item) for item in findings],
        "struck": [item.to_json() for item in struck],
    }
    write_faults(folder / "faults.json", document)
    (folder / "faults.md").write_text(page(findings, struck))
    console.print(on_screen(FINDINGS, findings_rows(findings)))
    console.print(on_screen(KILLS, kills_rows(struck)))
    console.print(
        f"{folder / 'faults.json'}: {'all ended well' if document['well'] else 'NOT WELL'}"
    )
    return 0 if document["well"] else 1


if __name__ == "__main__":
    sys.exit(main())
