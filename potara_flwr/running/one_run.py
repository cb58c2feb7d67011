"""One run: where its results go, on which runtime, and what is shown of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from rich.console import Console

from potara_flwr.core.errors import SettingsError
from potara_flwr.running.composition import compose_settings
from potara_flwr.running.display import DisplayHandler, LiveDisplay
from potara_flwr.settings.schema import Settings


def new_folder() -> Path:
    """Return the name of a results folder that is not there yet, by the time of day."""
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    folder = Path("results") / stamp
    number = 2
    while folder.exists():
        folder = Path("results") / f"{stamp}_{number}"
        number += 1
    return folder


def placed(settings: Settings, results: Path | None) -> Settings:
    """Return the settings with the absolute path of the results folder: the one given, or that of
    the run to go on with, or a new one.
    """
    earlier, folder = settings.run.earlier
    if results and earlier:
        raise SettingsError(f"{earlier} goes on in its own folder; leave out --results")
    place = results or Path(folder or settings.run.results or new_folder())
    key = earlier.removeprefix("run.").replace("-", "_") or "results"
    where = settings.run.model_copy(update={key: str(place.expanduser().absolute())})
    return settings.model_copy(update={"run": where})


def run(settings: Settings, runtime: str, console: Console) -> Path:
    """Run with live progress; return the results folder."""
    with LiveDisplay(console) as display:
        if runtime == "flwr":
            from potara_flwr.running.flower_runtime import run_with_flower

            return run_with_flower(settings, display)
        return run_displayed(settings, display)


def run_displayed(settings: Settings, display: LiveDisplay) -> Path:
    """Run in this process, with Flower's log on the display; return the results folder."""
    from flwr.supercore.logger import FLOWER_LOGGER

    from potara_flwr.in_process import run_in_process

    handlers, FLOWER_LOGGER.handlers = FLOWER_LOGGER.handlers, [DisplayHandler(display)]
    try:
        return run_in_process(settings)
    finally:
        FLOWER_LOGGER.handlers = handlers


def show(folder: Path, console: Console) -> None:
    """Print the tables of a run, and where its report and results are."""
    from potara_flwr.results.folder import read_results
    from potara_flwr.results.tables import client_tables, summary_table
    from potara_flwr.results.verdict import verdict

    results = read_results(folder)
    console.print(*client_tables(results))
    console.print(summary_table(results))
    console.print(verdict(results), style="bold", markup=False, highlight=False)
    page = folder / "report.html"
    print(f"report: {page}" if page.exists() else f"report: potara report {folder}")
    print(f"results: {folder}")


def run_and_show(words: Sequence[str], runtime: str, results: Path | None) -> None:
    """Run with the settings of a command line, and show what came out.

    Raises
    ------
    PotaraError
        A setting is wrong, or the run failed.
    """
    console = Console()
    settings = placed(compose_settings(words), results)
    show(run(settings, runtime, console), console)
