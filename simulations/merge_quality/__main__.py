"""How good each rule for λ is, in every regime; writes docs/research/merge-quality.md.

    python -m simulations.merge_quality
    python -m simulations.merge_quality --sentiment-data sentiment4.parquet --sentiment-model model

The measures of every family are stored in ``docs/research/data/merge-quality``, and the page and
its figures are written from them in seconds. What lacks there is made first: a family's adapters
are trained once and kept in ``results/merge-quality`` (about twenty minutes a seed on two cores),
and every rule and candidate is measured on them. A killed run goes on where it was. To make all of
it anew, remove the stored measures. Sentiment needs a file of the data set (columns text, label,
split, domain) and a text encoder's folder, named as the stored ones were.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from simulations import measuring
from simulations.merge_quality.families import (
    digit_families,
    edge_families,
    sentiment_families,
)
from simulations.merge_quality.measures import make, stored


def measure(args: argparse.Namespace) -> None:
    """Train and measure what lacks, and write the page."""
    data, model = args.sentiment_data, args.sentiment_model
    sentiment = sentiment_families(
        args.sentiment_seeds, data or Path("sentiment4.parquet"), model or Path("model")
    )
    families = [*digit_families(args.seeds), *edge_families(min(args.seeds, 3)), *sentiment]
    files = {family: args.stored / f"{family.name}.json.gz" for family in families}
    lacking = [family for family, file in files.items() if stored(family, file) is None]
    if not (data and model):
        for family in [family for family in lacking if family.group == "sentiment"]:
            lacking.remove(family)
            print(f"{family.name}: left out; it needs --sentiment-data and --sentiment-model")
    with measuring.workers(args.workers) as pool:
        futures = [pool.submit(make, family, args.results, files[family]) for family in lacking]
        for future in futures:
            print(f"{future.result()}: measured", flush=True)

    from simulations.merge_quality.page import write_page

    cases = [case for family, file in files.items() for case in stored(family, file) or []]
    write_page(cases)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that are this program's own."""
    add = parser.add_argument
    add("--seeds", type=int, default=5, help="seeds of digits, from 0 (default: 5)")
    add("--sentiment-seeds", type=int, default=2, help="seeds of sentiment (default: 2)")
    measuring.add_materials(parser, "sentiment")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; return the exit status."""
    return measuring.main("merge_quality", __doc__, add_options, measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
