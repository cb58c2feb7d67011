"""What the programs share that measure on digits and sentiment, store it, and write a page."""

from __future__ import annotations

import argparse
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

from potara_flwr.command.exit_status import at_interrupt, exit_status
from potara_flwr.settings.fingerprint import differences

STORED = Path(__file__).parents[1] / "docs" / "research" / "data"


def differing(stored: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return flat name → both values of the settings in which something stored differs from what is
    wanted now. One that only one of them knows is newer or gone: where it was not known it had a
    value that changes no number.
    """
    found = differences(stored, now)
    return {name: values for name, values in found.items() if None not in values}


def parser_of(name: str, text: str | None) -> argparse.ArgumentParser:
    """Return a parser of the command line of ``python -m simulations.<name>``, whose module's
    docstring is its help.
    """
    summary, _, rest = (text or "").partition("\n\n")
    return argparse.ArgumentParser(
        prog=f"python -m simulations.{name}",
        description=summary,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def main(
    name: str,
    text: str | None,
    add_options: Callable[[argparse.ArgumentParser], None],
    measure: Callable[[argparse.Namespace], None],
    arguments: Sequence[str] | None,
) -> int:
    """Read the command line of ``python -m simulations.<name>``, and measure; return the exit
    status.

    Parameters
    ----------
    text : str, optional
        The program's help.
    add_options : function
        Adds the options that are the program's own.
    measure : function
        Gets their values, ``stored`` and ``results`` (folders), and the number of ``workers``.
    arguments : sequence of str, optional
        The command line, if it is not that of this process.
    """
    folder = name.replace("_", "-")
    parser = parser_of(name, text)
    add = parser.add_argument
    add_options(parser)
    add(
        "--stored",
        type=Path,
        default=STORED / folder,
        metavar="FOLDER",
        help=f"where measures are kept (default: docs/research/data/{folder})",
    )
    add(
        "--results",
        type=Path,
        default=Path("results") / folder,
        metavar="FOLDER",
        help=f"where what is measured is made (default: results/{folder})",
    )
    cores = os.cpu_count() or 1
    add("--workers", type=int, default=cores, help="processes (default: all cores)")
    args = parser.parse_args(arguments)

    def work() -> None:
        with at_interrupt("the same command continues"):
            measure(args)

    return exit_status(work)


def add_materials(parser: argparse.ArgumentParser, *names: str) -> None:
    """Add the options that name the data file and the model folder of some data sets."""
    for name in names:
        parser.add_argument(f"--{name}-data", type=Path, metavar="FILE", help=f"data of {name}")
        parser.add_argument(f"--{name}-model", type=Path, metavar="FOLDER", help="and its model")


@contextmanager
def workers(number: int) -> Iterator[ProcessPoolExecutor]:
    """Give a pool of processes that begin anew; what has not begun when it ends never does. They
    end with this process, also where it is killed.
    """
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(number, mp_context=context, initializer=_end_with_parent)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """Have this process end as soon as the one that started it has."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()
