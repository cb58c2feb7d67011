"""``potara compare``: stored runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER...", hidden=True)],
    reference: Annotated[
        list[str] | None,
        typer.Option(
            metavar="name=value",
            help="The reference has this value, and is a row's like in all else; may be repeated.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Where page, figures and CSV go (default: comparison, in the first folder).",
        ),
    ] = None,
) -> None:
    """Compare stored runs in one table, figures, a CSV and a page.

    Every results.json in the folders or below is a run. Runs that differ in
    their seed alone are one row, with mean and spread. Each row is compared with
    its reference, seed by seed and client by client: with the row that has the
    values of --reference and is its like in every other setting; by default with
    the first row.

    \b
    Example:
      potara compare results/sweeps/digits
      potara compare results/sweeps/digits results/mine --reference method=fedit
    """
    from potara_flwr.comparison.folders import compare_and_show

    compare_and_show(folders, reference or [], output or folders[0] / "comparison")
