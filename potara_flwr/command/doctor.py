"""``potara doctor``: what lacks on this machine for a run to succeed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from potara_flwr.command.words import SettingWords

if TYPE_CHECKING:
    from potara_flwr.command.checks.check import Check
    from potara_flwr.settings.schema import Settings


def doctor(
    settings: SettingWords = None,
    state_dir: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="A SuperNode's state-dir, to be looked at as well."),
    ] = None,
) -> None:
    """Look at what a run needs, and say what to do where it lacks.

    Python, packages, GPU, disks, Flower's variables and ports, SuperLinks that
    were left running, and the model and data of the settings, which are those
    of potara run; where both are on this machine, client 0 does once what it
    will do in a run. Each is one line: ok, warn (some runs will not go as
    expected) or fail, what was found → what to do. Nothing is downloaded. The
    exit status is 1 if anything fails.

    \b
    Example:
      potara doctor
      potara doctor experiment=sentiment data.path=/data/a.parquet
    """
    states = []
    for check in checks(settings or [], state_dir):
        typer.echo(str(check))
        states.append(check.state)
    typer.echo(", ".join(f"{states.count(state)} {state}" for state in ("ok", "warn", "fail")))
    raise typer.Exit(int("fail" in states))


def checks(words: Sequence[str], state_dir: Path | None) -> Iterator[Check]:
    """Make every check, the quick ones first. What needs packages is left out where one lacks:
    reading the settings and looking at what they name, Flower's ports and processes.

    Raises
    ------
    SettingsError
        A setting is wrong; raised before the first check is given.
    """
    from potara_flwr.command.checks import machine, packages

    found = list(packages.check_packages())
    settings = None
    if all(check.state == "ok" for check in found):
        from potara_flwr.running.composition import compose_settings

        settings = compose_settings(words)
    yield machine.check_python()
    yield from found
    yield machine.check_folder("flower home", Path(os.environ.get("FLWR_HOME", "~/.flwr")))
    results = settings.run.results if settings else ""
    yield machine.check_folder("results", Path(results or "results"))
    if state_dir:
        yield machine.check_folder("state-dir", state_dir)
    yield machine.check_ray_folder()
    if settings is None:
        return
    from huggingface_hub.constants import HF_HUB_CACHE

    from potara_flwr.command.checks import flower

    yield machine.check_folder("hub cache", Path(HF_HUB_CACHE))
    yield flower.check_variables()
    yield from flower.check_ports()
    yield from flower.check_superlinks(flower.running_superlinks())
    yield packages.check_torch(settings)
    yield from material_checks(settings)


def material_checks(settings: Settings) -> Iterator[Check]:
    """Check what the settings name, and try it where all of it is here; loads torch."""
    from potara_flwr.command.checks import material

    hub = material.Hub()
    found = [material.check_model(settings, hub), material.check_data(settings, hub)]
    yield from found
    if all(check.state == "ok" for check in found) and material.is_here(settings, hub):
        yield material.check_preflight(settings)
