"""``potara run``: the app once, and what came out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import typer


def setting_names(incomplete: str) -> Iterator[str]:
    """Yield what may stand before the value of a setting, for the shell's completion."""
    from potara_flwr.settings.schema import schema

    for name in ("experiment", *dict(schema())):
        if name.startswith(incomplete):
            yield f"{name}="


def run(
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[name=value]...", autocompletion=setting_names, hidden=True),
    ] = None,
    runtime: Annotated[
        Literal["in-process", "flwr"],
        typer.Option(
            help="In this process, one client after the other (default), or through flwr run, in "
            "parallel on Ray. Both give the same bits.",
            show_default=False,
        ),
    ] = "in-process",
    results: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Results folder (default: results/<time>)."),
    ] = None,
) -> None:
    """Run the app once and show what came out.

    Settings are those of docs/reference/settings.md, and hold over those of a preset,
    experiment=NAME (a file in conf/experiment). A text with commas or spaces
    stands in quotes of its own: "lora.target-modules='q_proj,k_proj'".
    The exit status is 0 if, and only if, there are results.

    \b
    Example:
      potara run data.shift=conflicting merge.rule=segment seed=3
      potara run --runtime flwr experiment=paper
    """
    from potara_flwr.running.one_run import run_and_show

    run_and_show(settings or [], runtime, results)
