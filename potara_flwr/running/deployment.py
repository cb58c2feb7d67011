"""One run on a federation of its own, with a node for each client."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from potara_flwr.core.errors import SettingsError
from potara_flwr.results.folder import claimed_folder, results_folder
from potara_flwr.running.composition import compose_settings
from potara_flwr.running.display import LiveDisplay
from potara_flwr.running.federation import Federation, federation
from potara_flwr.running.flower_cli import CONNECTION, app_folder, run_app
from potara_flwr.running.one_run import placed, show
from potara_flwr.settings.schema import Settings

SHORT = ("federation.rounds=4", "federation.fraction-evaluate=0.0", "merge.compare=false")
"""What holds unless the command line says otherwise."""


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


def deploy(
    settings: Settings, console: Console, *, keep_going: bool = False, cold: bool = False
) -> Path:
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
        with federation(folder, names, cold=names if cold else ()) as running:
            display.say(f"connected to {running.address}: {', '.join(names)}; logs: {folder}")
            run_app(settings, running.environment, display, f"on {len(names)} SuperNodes")
            if keep_going:
                wait(running, display)
    return results


def wait(running: Federation, display: LiveDisplay) -> None:
    """Say how to submit another run, and wait for Ctrl-C."""
    home = running.environment["FLWR_HOME"]
    app = app_folder(Path(home))
    names = ",".join(running.nodes)
    display.say(
        f"the federation stays up until Ctrl-C; another run, in another terminal:\n"
        f"  FLWR_HOME={home} flwr run {app} {CONNECTION} --stream -c "
        f"\"federation.nodes='{names}' data.num-clients={len(running.nodes)}\""
    )
    try:
        signal.pause()
    except KeyboardInterrupt:
        display.say("ending the federation")


def deploy_and_show(
    words: Sequence[str], nodes: int, results: Path | None, *, keep_going: bool, cold: bool
) -> None:
    """Run on ``nodes`` SuperNodes with the settings of a command line, and show what came out.

    Raises
    ------
    PotaraError
        A setting is wrong, a process did not start, or the run failed.
    """
    console = Console()
    settings = placed(deployed_settings(words, nodes), results)
    show(deploy(settings, console, keep_going=keep_going, cold=cold), console)
