"""What the programs share that measure on digits and sentiment, store it, and write a page."""

from __future__ import annotations

import argparse
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from simulations.program import parser_of

STORED = Path(__file__).parents[1] / "docs" / "data"


def measuring_parser(name: str, text: str | None, stored: str) -> argparse.ArgumentParser:
    """Return a parser of what they all are told: seeds, sentiment's data and model, and folders."""
    parser = parser_of(name, text)
    parser.add_argument("--seeds", type=int, default=5, help="seeds of digits, from 0 (default: 5)")
    parser.add_argument(
        "--sentiment-seeds", type=int, default=2, help="seeds of sentiment (default: 2)"
    )
    parser.add_argument("--sentiment-data", type=Path, metavar="FILE", help="sentiment data file")
    parser.add_argument("--sentiment-model", type=Path, metavar="FOLDER", help="text encoder")
    parser.add_argument(
        "--stored",
        type=Path,
        default=STORED / stored,
        metavar="FOLDER",
        help=f"where measures are kept (default: docs/data/{stored})",
    )
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)"
    )
    return parser


@contextmanager
def workers(number: int) -> Iterator[ProcessPoolExecutor]:
    """Give a pool of processes that begin anew; what has not begun when it ends never does."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(number, mp_context=context)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
