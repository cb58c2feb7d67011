"""``potara run``: the app once, and what came out."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from potara_flwr.command.words import ResultsFolder, SettingWords


def run(
    settings: SettingWords = None,
    runtime: Annotated[
        Literal["in-process", "flwr"],
        typer.Option(
            help="In this process, one client after the other (default), or through flwr run, in "
            "parallel on Ray. Both give the same bits.",
            show_default=False,
        ),
    ] = "in-process",
    results: ResultsFolder = None,
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
