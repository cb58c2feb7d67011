"""The page of benchmarks: what is measured takes the place of its rows, and the others stay."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path

import torch

from simulations.bench.many_clients import Size
from simulations.bench.rows import Row, Seen
from simulations.markdown import rendered

PAGE = Path(__file__).parents[2] / "docs" / "research" / "benchmarks.md"
GPU_PARTS = {
    "float32": "losses, gradients, traces, λ and merges against those of the CPU",
    "bfloat16": "losses and λ against those of float32",
    "4-bit": "a base model of bitsandbytes",
    "checkpointing": "memory, time and the adapter with activations computed anew",
    "two clients": "two processes on one GPU at once",
    "speed": "tokens of a client in a second, over those of a bare peft loop",
    "memory": "the largest of the weight phase over that of training",
    "real data": "SmolLM2-135M on the questions of eight tasks, a whole run",
}
"""Part → what it shows; a part without a row in the table has not been measured yet."""


def with_rows(page: str, table: str, rows: Sequence[Row | Size | Seen]) -> list[str]:
    """Return the lines of the table in ``page`` whose first column is called ``table``, with those
    that were measured anew replaced.
    """

    def what(line: str) -> str:
        return line.split("|")[1].partition(" (")[0].strip()

    tables = [part.splitlines() for part in page.split("\n\n") if part.startswith(f"| {table} |")]
    lines = {what(line): line for lines in tables for line in lines[2:]}
    new = {what(str(row)): str(row) for row in rows if row.table == table}
    return list((lines | new).values())


def with_parts(page: str, rows: Sequence[Row | Size | Seen]) -> list[str]:
    """Return the lines of the table of what a GPU has shown, with the parts that were measured anew
    replaced as a whole: with other packages or materials they have other rows.
    """
    anew = [row for row in rows if isinstance(row, Seen)]
    begins = tuple(f"| {part}:" for part in {row.part for row in anew})
    kept = [line for line in with_rows(page, Seen.table, ()) if not line.startswith(begins)]
    lines = [*kept, *map(str, anew)]
    order = [f"| {part}:" for part in GPU_PARTS]
    return sorted(lines, key=lambda line: [line.startswith(start) for start in order].index(True))


def open_parts(lines: Sequence[str]) -> list[str]:
    """Return in words what no line tells of."""
    return [
        f"{part} ({what})"
        for part, what in GPU_PARTS.items()
        if not any(line.startswith(f"| {part}:") for line in lines)
    ]


def write(rows: Sequence[Row | Size | Seen]) -> None:
    """Write the page."""
    page = PAGE.read_text()
    machine = (
        f"On {os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}, "
        f"torch {torch.__version__}."
    )
    if all(isinstance(row, Seen) for row in rows):  # each of these says where it was measured
        machine = re.findall(r"^On \d+ cores .*$", page, re.MULTILINE)[0]
    on_gpu = with_parts(page, rows)
    PAGE.write_text(
        rendered(
            Path(__file__).with_name("page.md.jinja"),
            ratios=with_rows(page, Row.table, rows),
            sizes=with_rows(page, Size.table, rows),
            on_gpu=on_gpu,
            open_parts=open_parts(on_gpu),
            machine=machine,
        )
    )
