"""The table of a comparison: as plain cells, which page and terminal share, and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from potara_flwr.comparison.differences import Row
from potara_flwr.comparison.runs import show
from potara_flwr.core.statistics import Difference
from potara_flwr.results.html import bytes_of
from potara_flwr.results.tables import NONE


def headers(rows: Sequence[Row]) -> list[str]:
    """Return the names of the columns: settings that differ, then what the runs have reached."""
    columns = [
        *rows[0].group.settings, "seeds", "accuracy (%)", "loss", "bytes", "steps a client",
        "seconds", "λ (s)", "over ref., by seeds (points)", "by seeds and clients (points)",
    ]  # fmt: skip
    empty = {"steps a client": all(row.steps is None for row in rows),
             "seconds": all(row.seconds is None for row in rows),
             "λ (s)": all(row.seconds_weight is None for row in rows)}  # fmt: skip
    return [name for name in columns if not empty.get(name, False)]


def cells(row: Row, columns: Sequence[str]) -> list[str]:
    """Return the cells of a row under ``columns``."""
    found = {name: show(value) for name, value in row.group.settings.items()} | {
        "seeds": str(len(row.group.runs)),
        "accuracy (%)": row.accuracy.words(100, 1),
        "loss": row.loss.words(1, 3),
        "bytes": bytes_of(row.num_bytes.mean),
        "steps a client": f"{row.steps.mean:.0f}" if row.steps else NONE,
        "seconds": f"{row.seconds.mean:.0f}" if row.seconds else NONE,
        "λ (s)": f"{row.seconds_weight.mean:.2f}" if row.seconds_weight else NONE,
        "over ref., by seeds (points)": _gain(row, row.over_seeds),
        "by seeds and clients (points)": _gain(row, row.over_clients),
    }
    return [found[name] for name in columns]


def terminal_table(rows: Sequence[Row]) -> Table:
    """Return the table for a terminal."""
    columns = headers(rows)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for i, name in enumerate(columns):
        text = i < len(rows[0].group.settings)
        table.add_column(
            name,
            justify="left" if text else "right",
            overflow="fold",
            no_wrap=name == "method",  # a name in two lines is none that can be typed
        )
    for row in rows:
        table.add_row(*map(Text, cells(row, columns)), style="bold" if row.is_reference else None)
    table.caption = Text(READING)
    table.caption_justify = "left"
    return table


READING = (
    "Bold: the reference (ref.). ± after a score is one standard deviation over seeds, after a "
    "difference two standard errors of the mean of paired differences; in brackets the number of "
    "pairs: seeds, each with its mean over clients, or clients at a seed."
)
"""How to read the numbers behind ±."""


def csv_text(rows: Sequence[Row]) -> str:
    """Return one line a row, with plain numbers; what is not known is empty."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = list(rows[0].group.settings)
    writer.writerow([
        *names, "seeds", "accuracy", "accuracy_deviation", "loss", "loss_deviation", "bytes",
        "optimizer_steps", "seconds", "weight_seconds", "reference", "gain_by_seeds",
        "gain_by_seeds_two_errors", "pairs_of_seeds", "gain_by_clients",
        "gain_by_clients_two_errors", "pairs_of_clients",
    ])  # fmt: skip
    for row in rows:
        writer.writerow([
            *(show(row.group.settings[name]) for name in names),
            " ".join(map(str, row.group.runs)),
            row.accuracy.mean, row.accuracy.deviation, row.loss.mean, row.loss.deviation,
            row.num_bytes.mean,
            row.steps.mean if row.steps else None, row.seconds.mean if row.seconds else None,
            row.seconds_weight.mean if row.seconds_weight else None,
            row.reference.label if row.reference else None,
            *_plain(row.over_seeds), *_plain(row.over_clients),
        ])  # fmt: skip
    return buffer.getvalue()


def _gain(row: Row, gain: Difference | None) -> str:
    if row.is_reference:
        return "ref."
    if gain is None:
        return NONE
    return f"{gain.words(100)} ({gain.pairs})"


def _plain(gain: Difference | None) -> tuple[float | None, float | None, int | None]:
    return (gain.mean, gain.error, gain.pairs) if gain else (None, None, None)
