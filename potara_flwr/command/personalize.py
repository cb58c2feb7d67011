"""``potara personalize``: a client's last phase on a saved federated adapter, with no server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from potara_flwr.command.words import BaseModelPlace


def personalize(
    federated: Annotated[
        Path,
        typer.Option(metavar="FOLDER", help="Results folder of a run, or its federated/ alone."),
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="New folder for the adapters.")],
    data: Annotated[
        str,
        typer.Option(
            metavar="PATH",
            help="File or folder whose rows are all this client's.",
            show_default=False,
        ),
    ] = "",
    client: Annotated[
        int | None,
        typer.Option(metavar="NUMBER", min=0, help="Which client of the run this is, from 0."),
    ] = None,
    model: BaseModelPlace = "",
) -> None:
    """Personalize a saved federated adapter, with no server.

    On data of your own, also for a client that never took part, or as a client
    of the run, which gives the bits that the run gave. The adapter must be the
    one whose hash the run has recorded. The report is in report.json.

    \b
    Example:
      potara personalize --federated results/first --data a.parquet --out mine
      potara personalize --federated results/first --client 3 --out client-3
    """
    from potara_flwr.offline import personalize_offline

    out = out.expanduser().absolute()
    report = personalize_offline(
        federated.expanduser().absolute(), out, client=client, data=data, model=model
    )
    typer.echo(summary_of(report))
    typer.echo(f"results: {out}")


def summary_of(report: dict[str, Any]) -> str:
    """Return what came out in one line: the scores, and the weight where there is one."""
    from potara_flwr.results.tables import number, percent

    own = report["personalized"]
    others = [
        f"{name} {percent(report['accuracy'][name])}"
        for name in ("initial", "federated", "local")
        if name in report["accuracy"]
    ]
    weight = f"; λ {number(own['weight'])}" if "weight" in own else ""
    return (
        f"personalized: {percent(own['accuracy'])} % of {report['num_test']} test samples "
        f"({', '.join(others)}){weight}"
    )
