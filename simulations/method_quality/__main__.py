"""Methods by one protocol on the benchmarks of the suite; writes docs/research/results.md.

    python -m simulations.method_quality
    python -m simulations.method_quality --cifar10-data cifar10.parquet --cifar10-model dinov2-small
    python -m simulations.method_quality --only digits-shared digits-conflicting

What is needed of every run is kept in ``docs/research/data/method-quality``, and the page, its
figures and README's table are written from that in seconds. What lacks there is run first, each
run as a sweep would make it (about a minute of a core for digits, four for sentiment, eight for
CIFAR-10 on DINOv2), in ``results/method-quality``. A killed program goes on where it was.
Benchmarks that are not embedded need a file of their data and a folder of their model, named as
the stored ones were: ``cifar10.parquet`` (columns image, label) and ``dinov2-small``;
``sentiment4.parquet`` (text, label, split, domain) and ``model``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from potara_flwr.settings.schema import Settings
from simulations import measuring
from simulations.method_quality.domains import write_domains
from simulations.method_quality.stored import Store, make
from simulations.method_quality.studies import (
    BASELINE,
    DOMAINS,
    FRESH,
    REFERENCE,
    ROUNDS_BENCHMARK,
    TRANSPORT_BENCHMARK,
    TRANSPORT_SEEDS,
    Materials,
    Run,
    benchmarks,
    by_rounds,
    contest,
    transports,
    tuning,
)

Wanted = Iterable[tuple[Store, Settings]]


def make_lacking(wanted: Wanted, folder: Path, pool: ProcessPoolExecutor) -> None:
    """Make the runs that are not stored, in this order, and store each when it is done. What is
    wanted twice, for two tables, is made once.
    """
    lacking: list[tuple[Store, Settings]] = []
    for store, settings in wanted:
        if settings not in store and (store, settings) not in lacking:
            lacking.append((store, settings))
    futures = {
        pool.submit(make, settings, folder / store.name): store for store, settings in lacking
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


def compared(stores: Sequence[Store], seeds: int) -> Iterator[tuple[Store, Settings]]:
    """Yield the runs that the page compares, at the learning rates that the stores tell: those of
    the first ``seeds`` seeds of every benchmark, and of Potara and its baseline those of as many
    seeds that chose nothing.
    """
    for store in stores:
        benchmark, rates = store.benchmark, store.rates()
        for seed in benchmark.seeds[:seeds]:
            yield from ((store, run) for run in contest(benchmark, seed, rates).values())
        for seed in FRESH[:seeds]:
            runs = contest(benchmark, seed, rates)
            yield from ((store, runs[entry]) for entry in (REFERENCE, BASELINE))
        if store.name == TRANSPORT_BENCHMARK:
            for seed in range(min(seeds, TRANSPORT_SEEDS)):
                yield from ((store, run) for run in transports(benchmark, seed, rates))
        if store.name == ROUNDS_BENCHMARK:
            for seed in FRESH[:seeds]:
                yield from ((store, run) for _, _, run in by_rounds(benchmark, seed, rates))


def measure(args: argparse.Namespace) -> None:
    """Make the runs that lack, and write the pages."""
    stores = all_stores(args.stored, materials_of(args))
    able = [
        store
        for store in stores
        if store.benchmark.can_run and (not args.only or store.name in args.only)
    ]
    with measuring.workers(args.workers) as pool:
        folder = args.results.absolute()
        make_lacking(((s, run) for s in able for run in tuning(s.benchmark)), folder, pool)
        make_lacking(compared(able, args.seeds), folder, pool)

    from simulations.method_quality.page import write_page, write_readme

    write_page(stores)
    write_readme(stores)


def materials_of(args: argparse.Namespace) -> Materials:
    """Return the files that were named, and make the one that is made of them."""
    sentiment = (args.sentiment_data, args.sentiment_model)
    domains = None
    if args.cifar10_data is not None and (not args.only or DOMAINS in args.only):
        domains = args.results.absolute() / "cifar10-domains.parquet"
        if not domains.is_file():
            domains.parent.mkdir(parents=True, exist_ok=True)
            write_domains(args.cifar10_data, domains)
    return Materials(*sentiment, args.cifar10_data, args.cifar10_model, domains)


def all_stores(folder: Path, materials: Materials) -> list[Store]:
    """Return the store of every benchmark."""
    return [Store(benchmark, folder) for benchmark in benchmarks(materials).values()]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that are this program's own."""
    names = list(benchmarks(Materials()))
    add = parser.add_argument
    add("--seeds", type=int, default=5, help="seeds of each benchmark (default: 5)")
    words = f"benchmarks to run, of {', '.join(names)} (default: all)"
    add("--only", nargs="+", choices=names, metavar="NAME", help=words)
    measuring.add_materials(parser, "cifar10", "sentiment")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; return the exit status."""
    return measuring.main("method_quality", __doc__, add_options, measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
