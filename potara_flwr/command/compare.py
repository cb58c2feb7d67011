"""Compare stored runs: one table, figures, CSV and a page that stands alone.

    potara compare results/sweeps/digits
    potara compare results/sweeps/digits results/mine --reference method=fedit

Every results.json in the folders or below is a run. Runs that differ in their seed alone are one
row, with mean and spread. Each row is compared with its reference, seed by seed and client by
client: with the row that has the values of ``--reference`` and is its like in every other setting;
by default with the first row.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.measure import Measurement

from potara_flwr.command.program import exit_status, parser_of
from potara_flwr.comparison.differences import compare, remarks
from potara_flwr.comparison.page import write_page
from potara_flwr.comparison.runs import ComparisonError, common, find, group, without_results
from potara_flwr.comparison.tables import terminal_table

WIDE = 1000
"""More characters than any table has in a line."""


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = parser_of("potara_flwr.command.compare", __doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="where runs are")
    parser.add_argument(
        "--reference",
        action="append",
        default=[],
        metavar="name=value",
        help="the reference has this value, and is a row's like in all else; may be repeated",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="where page, figures and CSV go (default: comparison, in the first folder)",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare; return the exit status."""
    args = parse_arguments(arguments)
    output = args.output or args.folders[0] / "comparison"
    return exit_status(lambda: compare_folders(args.folders, args.reference, output))


def compare_folders(folders: Sequence[Path], reference: Sequence[str], output: Path) -> None:
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


if __name__ == "__main__":
    sys.exit(main())
