"""``potara sweep``: the app once for each combination of values."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from potara_flwr.command.exit_status import at_interrupt
from potara_flwr.command.words import setting_names


def sweep(
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[name=value,value]...", autocompletion=setting_names, hidden=True),
    ] = None,
    multirun: Annotated[
        bool,
        typer.Option("-m", "--multirun", help="As Hydra calls a sweep; always so here."),
    ] = False,
    results: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="The sweep's folder (default: results/sweeps/<experiment>)."
        ),
    ] = None,
) -> None:
    """Run the app once for each combination of the values given.

    Settings are those of potara run, with several values separated by commas.
    Hydra's launcher takes the runs one after the other, or, with
    hydra/launcher=ray, in parallel on this machine or on a Ray cluster
    (docs/guides/sweeps.md). Each run has a folder in the sweep's. The same command
    continues a sweep that was stopped: finished runs are kept. The exit status
    is 0 if, and only if, every run has results.

    \b
    Example:
      potara sweep lora.rank=2,4,8 data.alpha=0.1,0.5 seed=1,2,3
      potara sweep experiment=paper lora.rank=2,4,8 --results results/sweeps/ranks
      potara sweep hydra/launcher=ray lora.rank=2,4,8
    """
    from potara_flwr.sweeps.one_sweep import sweep_and_show

    with at_interrupt("the same command continues"):
        raise typer.Exit(int(not sweep_and_show(settings or [], results)))
