"""``potara report``: the report of a stored run, made anew from its ``results.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from potara_flwr.core.errors import PotaraError


class ReportError(PotaraError):
    """There are no results that a report can be made of (says why)."""


def report(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", hidden=True)],
) -> None:
    """Write a run's report.html and figures anew, print its tables.

    They are made from results.json in FOLDER, which is checked first and left as
    it is.

    \b
    Example:
      potara report results/2026-11-24_10-14-30
    """
    from rich.console import Console

    from potara_flwr.results.report import write_report
    from potara_flwr.running.one_run import show

    folder = folder.expanduser().absolute()
    results = read_checked(folder)
    try:
        write_report(results, folder)
        show(folder, Console())
    except KeyError as error:
        raise ReportError(
            f"{folder / 'results.json'} has no {error}: another version of this project wrote it, "
            "and that one can report it"
        ) from None
    except OSError as error:
        raise ReportError(f"{error.filename} cannot be written ({error.strerror})") from None


def read_checked(folder: Path) -> dict[str, Any]:
    """Read ``results.json``, if it is what a run has written.

    Raises
    ------
    ReportError
        It is missing, cannot be read, or is not what a run wrote.
    """
    from potara_flwr.results.folder import digest

    file = folder / "results.json"
    if not folder.is_dir():
        raise ReportError(f"there is no folder {folder}")
    if not file.is_file():
        below = sorted(str(found.parent) for found in folder.glob("*/results.json"))
        hint = f"; there is one in {below[0]}" if below else ""
        raise ReportError(f"there is no results.json in {folder}{hint}")
    try:
        results: dict[str, Any] = json.loads(file.read_text())
        recorded = results.pop("digest")
    except (ValueError, KeyError, AttributeError, TypeError):
        raise ReportError(f"{file} is damaged: it is not the results of a run") from None
    except OSError as error:
        raise ReportError(f"{file} cannot be read ({error.strerror})") from None
    if digest(results) != recorded:
        raise ReportError(f"{file} was changed after the run: its digest is another")
    return results
