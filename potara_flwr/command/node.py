"""``potara node``: a SuperNode whose client processes are warm."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

import typer


def node(
    context: typer.Context,
    idle_timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            help="End the resident process after as long without a message (default: 600).",
            show_default=False,
        ),
    ] = 600.0,
) -> None:
    """Start a SuperNode that answers messages warm.

    Takes every option of flower-supernode, and becomes it. Flower starts a
    process for each message; here that process is forked from a resident one,
    which has imported torch, transformers and peft and keeps the base model and
    the prepared data of the last run. Its log says warm or cold for each
    message. Results are the same to the bit. A base model on a GPU is not kept:
    it is loaded for each message. See docs/guides/deployment.md.

    \b
    Example:
      potara node --superlink superlink.example.org:443 --root-certificates ca.crt
      potara node --idle-timeout 60 --superlink localhost:8443 --insecure
    """
    from potara_flwr.core.errors import SettingsError
    from potara_flwr.warm.node import run_node

    words = context.args
    if idle_timeout < 0:
        raise SettingsError(f"--idle-timeout is {idle_timeout:g}, but must be 0 or more")
    if "--isolation=process" in words or ("--isolation", "process") in pairwise(words):
        raise SettingsError(
            "--isolation process: client processes are started by a superexec of their own, which "
            "potara node cannot make warm; leave it out, or use flower-supernode"
        )
    run_node(words, idle_timeout)
