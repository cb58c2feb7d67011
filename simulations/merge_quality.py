"""How good each rule for λ is, in every regime: measured, and written to docs/merge-quality.md.

    python -m simulations.merge_quality
    python -m simulations.merge_quality --sentiment-data sentiment4.parquet --sentiment-model folder

Trains the adapters of every family once (about ten minutes a seed on two cores), measures every
rule and candidate on them, keeps both in ``results/merge-quality/``, and writes the page and its
figures from what is kept. A killed run goes on where it was. Sentiment needs a data file with the
columns text, label, split and domain, and a text encoder; without them its stored results are used.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from simulations.quality.families import (
    Family,
    digit_families,
    edge_families,
    sentiment_families,
    train_family,
)
from simulations.quality.measures import measure_family

FOLDER = Path("results") / "merge-quality"


def cases_of(family: Family, root: Path) -> list[dict[str, Any]]:
    """Return the measures of a family, making what lacks."""
    folder = root / family.name
    cases = measure_family(family, train_family(family, folder), folder)
    print(f"{family.name}: {len(cases)} cases", flush=True)
    return cases


def main() -> None:
    """Train and measure what lacks, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5, help="seeds of digits, from 0")
    parser.add_argument("--sentiment-seeds", type=int, default=2, help="seeds of sentiment")
    parser.add_argument("--sentiment-data", type=Path, metavar="FILE", help="sentiment data file")
    parser.add_argument("--sentiment-model", type=Path, metavar="FOLDER", help="text encoder")
    parser.add_argument("--results", type=Path, default=FOLDER, metavar="FOLDER")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    args = parser.parse_args()
    families = [*digit_families(args.seeds), *edge_families(min(args.seeds, 3))]
    if args.sentiment_data and args.sentiment_model:
        families += sentiment_families(
            args.sentiment_seeds, args.sentiment_data, args.sentiment_model
        )
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.workers, mp_context=context) as pool:
        futures = [pool.submit(cases_of, family, args.results) for family in families]
        cases = [case for future in futures for case in future.result()]

    from simulations.quality.page import write_page

    write_page(cases)


if __name__ == "__main__":
    main()
