"""``potara credentials``: certificates and keys of a federation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def credentials(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", hidden=True)],
    nodes: Annotated[list[str] | None, typer.Argument(metavar="[NODE]...", hidden=True)] = None,
    names: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help="Names and addresses of the SuperLink (default: DNS:localhost,IP:127.0.0.1).",
            show_default=False,
        ),
    ] = "DNS:localhost,IP:127.0.0.1",
    days: Annotated[
        int, typer.Option(help="How long they are good for (default: 365).", show_default=False)
    ] = 365,
) -> None:
    """Make certificates and keys of a federation.

    For the SuperLink and the superexec (superlink/, superexec/ in FOLDER), for
    who registers nodes and submits runs (client/), and for each NODE. What is
    there already is left; to renew the certificate, remove superlink/.
    docs/guides/deployment.md says where each file goes.

    \b
    Example:
      potara credentials keys --names DNS:superlink.example.org,DNS:localhost
      potara credentials keys node-0 node-1 --days 30
    """
    from potara_flwr.running.credentials import make_credentials

    for line in make_credentials(folder.expanduser().absolute(), nodes or [], names, days):
        typer.echo(line)
