"""Run the app on a real federation on this machine: SuperLink with TLS, SuperNodes with keys.

    potara deploy
    potara deploy --nodes 4 federation.rounds=10 seed=3
    potara deploy --keep-going

Starts a SuperLink (certificate, SQLite, process isolation), a superexec and the SuperNodes, each a
process with a folder, a key and a log of its own; submits the app through ``flwr run``, follows it,
and ends every process. Unless told otherwise it runs 4 rounds and scores nothing after them, for on
a SuperNode every message starts a process. Settings are as for ``potara run``. The exit status is 0
if, and only if, there are results. docs/guides/deployment.md goes on to several machines.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from rich.console import Console

from potara_flwr.command.program import exit_status, parser_of
from potara_flwr.core.errors import SettingsError
from potara_flwr.results.folder import claimed_folder, results_folder
from potara_flwr.running.composition import compose_settings
from potara_flwr.running.display import LiveDisplay
from potara_flwr.running.federation import Federation, federation
from potara_flwr.running.flower_cli import CONNECTION, PROJECT, run_app
from potara_flwr.running.one_run import placed, show
from potara_flwr.settings.schema import Settings

SHORT = ("federation.rounds=4", "federation.fraction-evaluate=0.0")
"""What holds unless the command line says otherwise."""


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = parser_of("potara_flwr.command.deploy", __doc__)
    parser.add_argument("--nodes", type=int, default=3, help="number of SuperNodes (default: 3)")
    parser.add_argument(
        "--keep-going", action="store_true", help="leave the federation up until Ctrl-C"
    )
    parser.add_argument(
        "--results", type=Path, metavar="FOLDER", help="results folder (default: results/<time>)"
    )
    parser.add_argument("settings", nargs="*", metavar="name=value", help="settings of the run")
    return parser.parse_intermixed_args(arguments)


def deployed_settings(words: Sequence[str], nodes: int) -> Settings:
    """Return the settings of a run on named SuperNodes.

    Raises
    ------
    SettingsError
        A setting is wrong, or there are no nodes.
    """
    if nodes < 1:
        raise SettingsError(f"--nodes is {nodes}, but must be 1 or more")
    given = {word.partition("=")[0] for word in words}
    names = ",".join(f"node-{number}" for number in range(nodes))
    own = [*SHORT, f"data.num-clients={nodes}", f"federation.nodes='{names}'"]
    return compose_settings([*(w for w in own if w.partition("=")[0] not in given), *words])


def deploy(settings: Settings, console: Console, *, keep_going: bool = False) -> Path:
    """Run on a federation of its own; return the results folder.

    Raises
    ------
    PotaraError
        A process did not start, or the run failed.
    """
    results = results_folder(settings, 0)
    folder = results.with_name(results.name + ".federation")
    names = settings.federation.names
    with claimed_folder(settings, results), LiveDisplay(console) as display:
        display.say(f"starting a SuperLink, a superexec and {len(names)} SuperNodes")
        with federation(folder, names) as running:
            display.say(f"connected to {running.address}: {', '.join(names)}; logs: {folder}")
            run_app(settings, running.environment, display, f"on {len(names)} SuperNodes")
            if keep_going:
                wait(running, display)
    return results


def wait(running: Federation, display: LiveDisplay) -> None:
    """Say how to submit another run, and wait for Ctrl-C."""
    home = running.environment["FLWR_HOME"]
    names = ",".join(running.nodes)
    display.say(
        f"the federation stays up until Ctrl-C; another run, in another terminal:\n"
        f"  FLWR_HOME={home} flwr run {PROJECT} {CONNECTION} --stream -c "
        f"\"federation.nodes='{names}' data.num-clients={len(running.nodes)}\""
    )
    try:
        signal.pause()
    except KeyboardInterrupt:
        display.say("ending the federation")


def interrupt(number: int, frame: FrameType | None) -> None:
    """End as on Ctrl-C, so that no process is left behind."""
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; return the exit status."""
    args = parse_arguments(arguments)
    signal.signal(signal.SIGTERM, interrupt)

    def work() -> None:
        console = Console()
        settings = placed(deployed_settings(args.settings, args.nodes), args.results)
        show(deploy(settings, console, keep_going=args.keep_going), console)

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main())
