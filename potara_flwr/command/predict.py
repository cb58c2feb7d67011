"""``potara predict``: what a saved adapter says of the rows of a data file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from potara_flwr.command.words import SettingWords


def predict(
    adapter: Annotated[
        Path,
        typer.Option(metavar="FOLDER", help="Of a run's adapter, as <results>/clients/0."),
    ],
    data: Annotated[str, typer.Option(metavar="FILE", help="Rows to predict; need no labels.")],
    settings: SettingWords = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Ends in .csv or .jsonl; by default a csv on standard output."
        ),
    ] = None,
) -> None:
    """Predict the rows of a data file with a saved adapter.

    A row for each, in their order: a label with the probability of each class,
    an option with the scores of all, or an answer. Rows are prepared as in the
    run, whose settings stand next to the adapter; words give others, as where
    the base model or a column is now.

    \b
    Example:
      potara predict --adapter results/first/clients/3 --data new.csv
      potara predict --adapter mine --data new.csv --out labels.jsonl
      potara predict --adapter mine --data new.csv task.model=models/base
    """
    from potara_flwr.core.errors import SettingsError
    from potara_flwr.core.storage import write_whole
    from potara_flwr.prediction import SUFFIXES, predict_rows, write_csv, write_jsonl
    from potara_flwr.running.composition import values_of

    if out is not None:
        if out.suffix.lower() not in SUFFIXES:
            raise SettingsError(f"--out is {str(out)!r}; it must end in {' or '.join(SUFFIXES)}")
        if out.is_dir():
            raise SettingsError(f"--out: {out} is a folder; name a file")
    rows = predict_rows(adapter.expanduser().absolute(), data, values_of(settings or []))
    write = write_jsonl if out is not None and out.suffix.lower() == ".jsonl" else write_csv
    if out is None:
        sys.stdout.write(write(rows))
    else:
        write_whole(out.expanduser().absolute(), write(rows).encode())
        typer.echo(f"predictions: {out} ({len(rows)} rows)")
