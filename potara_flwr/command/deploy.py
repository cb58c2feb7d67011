"""``potara deploy``: the app on a real federation on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from potara_flwr.command.words import ResultsFolder, SettingWords


def deploy(
    settings: SettingWords = None,
    nodes: Annotated[
        int, typer.Option(help="Number of SuperNodes (default: 3).", show_default=False)
    ] = 3,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Leave the federation up until Ctrl-C.")
    ] = False,
    cold: Annotated[
        bool, typer.Option("--cold", help="Start a process anew for every message.")
    ] = False,
    results: ResultsFolder = None,
) -> None:
    """Run the app on a real federation: TLS, SuperNodes with keys.

    Starts a SuperLink (certificate, SQLite, process isolation), a superexec and
    the SuperNodes, each a process with a folder, a key and a log of its own;
    submits the app through flwr run, follows it, and ends every process. Unless
    told otherwise it runs 4 rounds and scores nothing after them. Settings are as
    for potara run; the SuperNodes are those of potara node, unless --cold. The
    exit status is 0 if, and only if, there are results. docs/guides/deployment.md goes
    on to several machines.

    \b
    Example:
      potara deploy
      potara deploy --nodes 4 federation.rounds=10 seed=3
      potara deploy --keep-going
    """
    from potara_flwr.running.deployment import deploy_and_show
    from potara_flwr.running.processes import interrupt_on_sigterm

    interrupt_on_sigterm()
    deploy_and_show(settings or [], nodes, results, keep_going=keep_going, cold=cold)
