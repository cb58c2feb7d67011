"""What several subcommands take: words for settings, folders, the place of a base model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer


def setting_names(incomplete: str) -> Iterator[str]:
    """Yield what may stand before the value of a setting, for the shell's completion."""
    from potara_flwr.settings.schema import schema

    for name in ("experiment", *dict(schema())):
        if name.startswith(incomplete):
            yield f"{name}="


SettingWords = Annotated[
    list[str] | None,
    typer.Argument(metavar="[name=value]...", autocompletion=setting_names, hidden=True),
]
ResultsFolder = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Results folder (default: results/<time>).")
]
BaseModelPlace = Annotated[
    str,
    typer.Option(
        metavar="NAME", help="Base model, if not where the run had it.", show_default=False
    ),
]
