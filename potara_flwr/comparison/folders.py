"""The runs of some folders, compared: the page is written, the table shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.measure import Measurement

from potara_flwr.comparison.differences import compare, remarks
from potara_flwr.comparison.page import write_page
from potara_flwr.comparison.runs import ComparisonError, common, find, group, without_results
from potara_flwr.comparison.tables import terminal_table

WIDE = 1000
"""More characters than any table has in a line."""


def compare_and_show(folders: Sequence[Path], reference: Sequence[str], output: Path) -> None:
    """Compare the runs in the folders, write the page to ``output``, and show the table.

    Raises
    ------
    ComparisonError
        There are no runs, the reference is none of theirs, or the page cannot be written.
    """
    found = find(folders)
    groups, copies = group(found)
    rows = compare(groups, reference)
    said = [*copies, *remarks(rows), *without_results(folders)]
    try:
        write_page(output, rows, common(found, list(groups[0].settings)), said)
    except OSError as error:
        raise ComparisonError(f"{output} cannot be written ({error.strerror})") from None
    console, table = Console(), terminal_table(rows)
    if not console.is_terminal:  # a file or a pipe is as wide as the table
        unbound = console.options.update(max_width=WIDE)
        console.width = max(console.width, Measurement.get(console, unbound, table).maximum)
    console.print(table)
    for remark in said:
        print(f"note: {remark}")
    print(f"csv: {output / 'comparison.csv'}")
    print(f"page: {output / 'comparison.html'}")
