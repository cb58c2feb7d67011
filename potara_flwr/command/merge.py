"""``potara merge``: two adapters that there are already, merged by the evidence of some samples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from potara_flwr.command.words import SettingWords


def merge(
    first: Annotated[Path, typer.Argument(metavar="FIRST", hidden=True)],
    second: Annotated[Path, typer.Argument(metavar="SECOND", hidden=True)],
    data: Annotated[
        str,
        typer.Option(metavar="PATH", help="File or folder with samples of the task."),
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="New folder for the merge.")],
    settings: SettingWords = None,
) -> None:
    """Merge two LoRA adapters of one base model, with no training.

    FIRST and SECOND are folders that peft has saved. calibration.samples rows of
    the data choose the weight of the merge, data.test-fraction of them score it.
    Settings say what the data is (task.name, columns), and how to merge
    (merge.rule, merge.space; ranks that differ need merge.space=delta).

    \b
    Example:
      potara merge a b --data my.csv --out c task.name=text-classification
    """
    from potara_flwr.merge_saved import merge_saved
    from potara_flwr.running.composition import compose_settings, parse_words

    words = settings or []
    composed = compose_settings(words)
    given = [override.key_or_group for override in parse_words(words)]
    first, second, out = (folder.expanduser().absolute() for folder in (first, second, out))
    report = merge_saved(first, second, data, out, composed, given)
    typer.echo(summary_of(report))
    typer.echo(f"results: {out}")


def summary_of(report: dict[str, Any]) -> str:
    """Return what came out in one line."""
    from potara_flwr.results.tables import number, percent

    own, others = report["personalized"], report["accuracy"]
    reason = f" ({own['reason']})" if own["reason"] else ""
    return (
        f"merge: {percent(own['accuracy'])} % of {report['num_test']} test samples "
        f"(first {percent(others['federated'])}, second {percent(others['local'])}); "
        f"λ {number(own['weight'])} by {own['rule']}{reason}"
    )
