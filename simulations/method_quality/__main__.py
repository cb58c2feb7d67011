"""All methods by one protocol on digits and sentiment; writes docs/research/results.md.

    python -m simulations.method_quality
    python -m simulations.method_quality --sentiment-data sentiment4.parquet --sentiment-model model

What is needed of every run is kept in ``docs/research/data/method-quality``, and the page and its
figures are written from that in seconds. What lacks there is run first, each run as a sweep would
make it (about a minute of a core for digits, four for sentiment), in ``results/method-quality``. A
killed program goes on where it was. Sentiment needs a file of the data set (columns text, label,
split, domain) and a text encoder's folder, named as the stored ones were.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from potara_flwr.settings.schema import Settings
from potara_flwr.sweeps.jobs import Job, run_job
from simulations import measuring
from simulations.method_quality.stored import Store, compact
from simulations.method_quality.studies import (
    DIGITS,
    SENTIMENT,
    TRANSPORT_BENCHMARK,
    TRANSPORT_SEEDS,
    Run,
    benchmarks,
    best_rates,
    contest,
    transports,
    tuning,
)

Wanted = Iterable[tuple[Store, Settings]]


def make(settings: Settings, folder: Path) -> Run:
    """Make a run in a folder of its own below ``folder``, unless it is there."""
    job = Job(f"{settings.method},seed={settings.seed}", settings, folder)
    results = job.results()
    if results is None:
        run_job(job)
        results = job.results()
    assert results is not None
    return compact(results, settings)


def make_lacking(wanted: Wanted, folder: Path, pool: ProcessPoolExecutor) -> None:
    """Make the runs that are not stored, in this order, and store each when it is done."""
    futures = {
        pool.submit(make, settings, folder / store.name): store
        for store, settings in wanted
        if settings not in store
    }
    for number, future in enumerate(as_completed(futures), start=1):
        store, run = futures[future], future.result()
        store.add(run)
        print(f"{number} of {len(futures)}: {store.name}, {words_of(run)}", flush=True)


def words_of(run: Run) -> str:
    """Return a run in words."""
    config, accuracy = run["config"], run["summary"]["mean"]["accuracy"]["personalized"]
    rate, transport = config["train"]["learning-rate"], config["federation"]["transport"]
    words = f"{run['method']}, seed {config['seed']}, learning rate {rate:g}, {transport}"
    return f"{words}: {100 * accuracy:.1f} %"


def compared(stores: Sequence[Store], seeds: int, sentiment_seeds: int) -> Iterator[
    tuple[Store, Settings]
]:  # fmt: skip
    """Yield the runs that the page compares, at the learning rates that the stores tell."""
    rates = {store.name: best_rates(store.benchmark, store.of_all()) for store in stores}
    for seed in range(max(seeds, sentiment_seeds)):
        for store in stores:
            if seed < (sentiment_seeds if store.name == SENTIMENT else seeds):
                for settings in contest(store.benchmark, seed, rates[store.name]):
                    yield store, settings
    for store in stores:
        if store.name == TRANSPORT_BENCHMARK:
            for seed in range(min(seeds, TRANSPORT_SEEDS)):
                for settings in transports(store.benchmark, seed, rates[store.name]):
                    yield store, settings


def measure(args: argparse.Namespace) -> None:
    """Make the runs that lack, and write the page."""
    data, model = args.sentiment_data, args.sentiment_model
    stores = [Store(one, args.stored) for one in benchmarks(data, model).values()]
    able = [store for store in stores if store.name != SENTIMENT or (data and model)]
    with measuring.workers(args.workers) as pool:
        folder = args.results.absolute()
        tuned = [store for store in able if store.name in DIGITS]
        make_lacking(((s, run) for s in tuned for run in tuning(s.benchmark)), folder, pool)
        make_lacking(compared(able, args.seeds, args.sentiment_seeds), folder, pool)

    from simulations.method_quality.page import write_page

    write_page(stores)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; return the exit status."""
    return measuring.main("method_quality", __doc__, measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
