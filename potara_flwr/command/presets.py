"""``potara presets``: which there are, and the file of one, to begin one's own from."""

from __future__ import annotations

from typing import Annotated

import typer


def presets(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", show_default=False)] = None,
) -> None:
    """List the presets, or print the file of one.

    A copy of it, changed, is a preset of one's own: experiment=./mine.yaml.

    \b
    Example:
      potara presets
      potara presets digits
    """
    from potara_flwr.running.composition import preset_file, preset_names, summary_of

    if name is not None:
        typer.echo(preset_file(name).read_text(), nl=False)
        return
    names = preset_names()
    width = max(map(len, names))
    for each in names:
        typer.echo(f"{each:<{width}}  {summary_of(each)}")
