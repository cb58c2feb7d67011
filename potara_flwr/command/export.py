"""``potara export``: saved adapters as servers and converters take them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from potara_flwr.command.words import BaseModelPlace


def export(
    results: Annotated[Path, typer.Argument(metavar="RESULTS", hidden=True)],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="New folder, with one a client.")],
    form: Annotated[
        Literal["peft", "merged", "gguf-ready"],
        typer.Option("--format", help="Adapters, plain models, or such for GGUF."),
    ] = "peft",
    clients: Annotated[
        str,
        typer.Option(metavar="0,3", help="Of these clients alone.", show_default=False),
    ] = "",
    base_name: Annotated[
        str,
        typer.Option(metavar="NAME", help="Base model's name in adapters.", show_default=False),
    ] = "",
    dtype: Annotated[
        Literal["float16", "float32", "bfloat16"] | None, typer.Option(help="Type of all tensors.")
    ] = None,
    model: BaseModelPlace = "",
) -> None:
    """Write the adapters of a run's clients as servers take them.

    peft: adapters in folders by client; merged: plain models with adapter and
    head in them; gguf-ready: the same of language models, for llama.cpp. RESULTS
    is a results folder, or that of one adapter. What each server takes:
    docs/guides/serving.md.

    \b
    Example:
      potara export results/first --out adapters --base-name org/base
      potara export results/first --out models --format merged --clients 0,3
    """
    from potara_flwr.core.errors import SettingsError
    from potara_flwr.export import export_results

    numbers = [part.strip() for part in clients.split(",") if part.strip()]
    if not all(number.isdecimal() for number in numbers):
        raise SettingsError(f"--clients is {clients!r}; write their numbers: 0,3")
    out = out.expanduser().absolute()
    names = export_results(
        results.expanduser().absolute(),
        out,
        form=form,
        clients=[int(number) for number in numbers],
        base_name=base_name,
        dtype=dtype,
        model=model,
    )
    typer.echo(f"exported to {out}: {', '.join(names)}")
