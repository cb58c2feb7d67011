"""Measure the table of the README: five seeds, both regimes, cold and warm local training.

    python -m simulations.readme_table

Runs the embedded default in process, which gives the same bits as ``make run``, keeps each run in
``results/readme/`` (a run that is there is not made again), and writes ``docs/default-results.md``
and the table of the README.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from potara_flwr.config import Value, from_flat
from potara_flwr.results import read_results
from simulations.run import run

README = Path(__file__).parent.parent / "README.md"
START, END = "<!-- table:start -->", "<!-- table:end -->"
PAGE = Path(__file__).parent.parent / "docs" / "default-results.md"
Run = tuple[str, str, dict[str, Any]]
"""Shift, local start, results."""

REGIMES = [(shift, start) for shift in ("shared", "conflicting") for start in ("cold", "warm")]


def measure(
    folder: Path, seeds: int, console: Console
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield the shift, the local start and the results of each run, making those that lack."""
    for seed in range(seeds):
        for shift, start in REGIMES:
            place = folder / f"{shift}-{start}-seed{seed}"
            overrides: dict[str, Value] = {
                "seed": seed, "data.shift": shift, "local.start": start,
                "run.results": str(place.absolute()),
            }  # fmt: skip
            settings = from_flat(overrides)
            if not (place / "results.json").is_file():
                console.print(f"{shift}, {start}, seed {seed}")
                run(settings, "in-process", console)
            results = read_results(place)
            if results["config"] != settings.computed():
                raise SystemExit(f"error: {place} was made with other settings; remove it")
            yield shift, start, results


def table(runs: list[Run], metric: str, scale: float) -> str:
    """Return a Markdown table: a row per adapter, a column per regime, mean ± spread over seeds."""
    names = [name for name in runs[0][2]["summary"]["mean"][metric] if name != "personalized"]
    lines = [
        "| adapter | " + " | ".join(f"{shift}, {start}" for shift, start in REGIMES) + " |",
        "|---" * (1 + len(REGIMES)) + "|",
    ]
    for name in names:
        cells = []
        for regime in REGIMES:
            values = [
                scale * results["summary"]["mean"][metric][name]
                for *where, results in runs
                if tuple(where) == regime
            ]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{statistics.mean(values):.{1 if scale > 1 else 3}f} ± "
                         f"{spread:.{1 if scale > 1 else 3}f}")  # fmt: skip
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Make the runs that lack and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds, from 0")
    parser.add_argument(
        "--results", type=Path, default=Path("results") / "readme", metavar="FOLDER"
    )
    args = parser.parse_args()
    runs = list(measure(args.results, args.seeds, Console()))
    before, _, rest = README.read_text().partition(START)
    after = rest.partition(END)[2]
    accuracy = table(runs, "accuracy", 100)
    README.write_text(f"{before}{START}\n{accuracy}\n{END}{after}")
    PAGE.write_text(
        f"""# The embedded default, measured

Written by `make results`: {args.seeds} seeds, every other setting at its default. A cell is the
mean over seeds of the mean over the 8 clients, ± the standard deviation over seeds. The initial and
the federated adapter do not depend on the local start. The oracle picks the best of 11 λ on the
test data itself and is out of any rule's reach.

## Test accuracy (%)

{accuracy}

## Test loss (nats)

{table(runs, "loss", 1)}
"""
    )


if __name__ == "__main__":
    main()
