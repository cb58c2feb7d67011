"""docs/research/results.md and its figures, from the stored runs."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from potara_flwr.comparison.differences import Row, compare
from potara_flwr.comparison.drawings import accuracy_against_bytes
from potara_flwr.comparison.runs import Group
from potara_flwr.core.statistics import spread
from potara_flwr.methods import METHODS
from potara_flwr.results.drawing import png_of
from potara_flwr.settings.schema import Settings
from simulations.markdown import table
from simulations.method_quality.stored import Store
from simulations.method_quality.studies import (
    LEARNING_RATES,
    SENTIMENT,
    SENTIMENT_CLIENTS,
    TRANSPORT_BENCHMARK,
    TRANSPORT_METHODS,
    TRANSPORTS,
    TUNING_SEED,
    Run,
    best_rates,
    contest,
    transports,
    tuning,
)

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "research" / "results.md"
IMAGES = ROOT / "docs" / "research" / "images"
REFERENCE = "potara"
SEEDS = range(20)
"""More than were ever run; the page has those that are stored."""

LEAST_SEEDS = 3
"""Of fewer the standard error says next to nothing."""

DEFAULT_SHIFT = Settings().data.shift
TITLES = {
    **{
        f"digits-{shift}": f"Digits, {shift} shift{' (the default)' * (shift == DEFAULT_SHIFT)}"
        for shift in ("shared", "conflicting")
    },
    SENTIMENT: f"Sentiment: {SENTIMENT_CLIENTS} clients, four domains, MiniLM",
}


def methods_of(store: Store) -> list[Row]:
    """Return a row for each method of a benchmark, the best first."""
    rates = best_rates(store.benchmark, store.of_all())
    wanted = [run for seed in SEEDS for run in contest(store.benchmark, seed, rates)]
    runs = _of_whole_seeds(store.of(wanted), len(METHODS))
    groups = _groups(runs, lambda run: {"method": run["method"]})
    rows = compare(groups, [f"method={REFERENCE}"]) if groups else []
    return sorted(rows, key=lambda row: -row.accuracy.mean)


def transports_of(store: Store) -> list[Row]:
    """Return a row for each method and transport, against float32."""
    rates = best_rates(store.benchmark, store.of_all())
    wanted = [run for seed in SEEDS for run in transports(store.benchmark, seed, rates)]
    runs = _of_whole_seeds(store.of(wanted), len(TRANSPORT_METHODS) * len(TRANSPORTS))
    groups = _groups(
        runs,
        lambda run: {
            "method": run["method"],
            "federation.transport": run["config"]["federation"]["transport"],
        },
    )
    return compare(groups, ["federation.transport=float32"]) if groups else []


def methods_table(rows: Sequence[Row]) -> str:
    """Return what every method reaches, and what it costs."""
    return table(
        ["`method`", "accuracy (%)", "worst client (%)", "over potara (points)", "seeds",
         "learning rate", "rounds", "MB a client", "steps a client", "training (s)", "λ (s)"],
        [_method_cells(row) for row in rows],
    )  # fmt: skip


def transports_table(rows: Sequence[Row]) -> str:
    """Return what each transport costs in accuracy and in bytes."""
    return table(
        ["`method`", "`federation.transport`", "accuracy (%)", "over float32 (points)", "seeds",
         "MB a client"],
        [
            [*map(str, row.group.settings.values()), row.accuracy.words(100), _gain(row),
             str(len(row.group.runs)), _megabytes(row)]
            for row in rows
        ],
    )  # fmt: skip


def rates_table(store: Store) -> str:
    """Return the accuracy of every learning rate of the grid at the tuning seed."""
    runs = {
        (run["method"], run["config"]["train"]["learning-rate"]): run
        for run in store.of(tuning(store.benchmark))
    }
    rates = best_rates(store.benchmark, runs.values())
    rows = []
    for method in METHODS:
        cells = []
        for rate in LEARNING_RATES:
            run = runs[method, rate]
            text = f"{100 * run['summary']['mean']['accuracy']['personalized']:.1f}"
            cells.append(f"**{text}**" if rate == rates[method] else text)
        rows.append([f"`{method}`", *cells])
    return table(["`method`", *(f"{rate:g}" for rate in LEARNING_RATES)], rows)


def at_the_ends(store: Store) -> str:
    """Say whose best learning rate is the lowest or the highest of the grid."""
    rates = best_rates(store.benchmark, store.of_all())
    found = [
        f"{end} of the grid is best for {', '.join(methods)}"
        for end, rate in (("the lowest", min(LEARNING_RATES)), ("the highest", max(LEARNING_RATES)))
        if (methods := [method for method in METHODS if rates[method] == rate])
    ]
    if not found:
        return ""
    words = "; ".join(found)
    return f"{words[0].upper()}{words[1:]}: a rate beyond it, which was not tried, may be better."


def verdict(rows: Sequence[Row]) -> str:
    """Say in words which methods are ahead of Potara, and which behind, beyond the noise."""
    seeds = min(len(row.group.runs) for row in rows)
    if seeds < LEAST_SEEDS:
        return (
            f"{'One seed' if seeds == 1 else f'{seeds} seeds'}: too few to know the noise, so read "
            "no order into small differences."
        )
    ahead: list[str] = []
    behind: list[str] = []
    even: list[str] = []
    for row in rows:
        if (gain := row.over_seeds) is None:
            continue
        group = (ahead if gain.mean > 0 else behind) if gain.is_sure else even
        group.append(f"{row.group.settings['method']} ({gain.words(100)})")
    parts = [
        f"{what}: {', '.join(names) or 'none'}"
        for what, names in (
            ("ahead of potara beyond the noise", ahead),
            ("even", even),
            ("behind it beyond the noise", behind),
        )
    ]
    words = "; ".join(parts)
    return words[0].upper() + words[1:] + "."


def section(store: Store) -> str:
    """Return what the page says of one benchmark, and draw its figure."""
    rows = methods_of(store)
    if not rows:
        return ""
    figure = f"results-{store.name}.png"
    IMAGES.mkdir(exist_ok=True)
    # In one order in all figures, so that a method has the same colour in each.
    ordered = sorted(rows, key=lambda row: list(METHODS).index(str(row.group.settings["method"])))
    (IMAGES / figure).write_bytes(png_of(accuracy_against_bytes(ordered)))
    return f"""## {TITLES[store.name]}

{verdict(rows)}

{methods_table(rows)}

![Accuracy of every method against the bytes it sends](images/{figure})

*Up and to the left is better. Bars are one standard deviation over seeds. Methods that send nearly
the same stand side by side.*

"""


def is_tuned(store: Store) -> bool:
    """Say whether the whole grid was run."""
    wanted = list(tuning(store.benchmark))
    return len(store.of(wanted)) == len(wanted)


def rates_section(stores: Iterable[Store]) -> str:
    """Return what the page says of the learning rates."""
    tuned = [store for store in stores if is_tuned(store)]
    tables = "\n\n".join(
        f"{TITLES[store.name]}:\n\n{rates_table(store)}\n\n{at_the_ends(store)}".rstrip()
        for store in tuned
    )
    if not tables:
        return ""
    return f"""## Learning rates

Mean accuracy (%) at seed {TUNING_SEED}, which stands in no other table; the rate that is used is
bold. Sentiment uses its preset's rate for all methods.

{tables}

"""


def transports_section(store: Store) -> str:
    """Return what the page says of the transports."""
    rows = transports_of(store)
    if not rows:
        return ""
    return f"""## Transport

How adapters travel, on {TITLES[store.name].lower()}, for the default and for the method that sends
most. What a transport costs is paired with float32, seed by seed.

{transports_table(rows)}
"""


def remarks(stores: Iterable[Store], transport: Store) -> str:
    """Say what makes the page weaker than it looks: how the learning rates were chosen, and what
    was not run.
    """
    said = []
    for store in stores:
        rows = methods_of(store)
        seeds = len(rows[0].group.runs) if rows else 0
        rates = "one of a grid for each method" if is_tuned(store) else "the preset's for all"
        runs = f"{seeds} seeds" if seeds != 1 else "one seed, so there is no spread"
        name = TITLES[store.name]
        said.append(
            f"- {name}: {runs}; learning rate: {rates}." if seeds else f"- {name}: not run."
        )
    if not transports_of(transport):
        said.append("- Transports: not run.")
    return "\n".join(said)


def write_page(stores: Sequence[Store]) -> None:
    """Write the page and its figures."""
    transport = next(store for store in stores if store.name == TRANSPORT_BENCHMARK)
    sections = [*map(section, stores), rates_section(stores), transports_section(transport)]
    PAGE.write_text(
        f"""# Results: every method

Written by `python -m simulations.method_quality` from stored runs. What each method does, and what
it sends, stands in [methods.md](../reference/methods.md); how Potara's rules for λ compare, in
[merge-quality.md](merge-quality.md).

One protocol for all: the same clients and samples, the same initial adapter, the same optimizer
steps of every client, the same test samples, everything from one seed; adapters travel as float32,
but where a table says otherwise. Accuracy is the
personalized adapters' on test data, the mean over clients, then mean ± standard deviation over
seeds. *Worst client* is the lowest accuracy among a run's clients, mean over seeds. *Over potara*
is the paired difference, a pair being a seed, ± two standard errors of its mean: with few seeds a
rough estimate. *MB a client* are all bytes down and up. *Training* are seconds of a client's
optimizer steps on one core of a busy machine, *λ* those of finding a weight and merging; compare
the steps rather than the seconds.

{remarks(stores, transport)}

{"".join(sections)}""".rstrip()
        + "\n"
    )


def _groups(runs: Iterable[Run], settings_of: Callable[[Run], dict[str, str]]) -> list[Group]:
    """Return runs grouped by some of their settings."""
    groups: dict[tuple[str, ...], Group] = {}
    for run in runs:
        settings = settings_of(run)
        group = groups.setdefault(tuple(settings.values()), Group(dict(settings)))
        group.runs[run["config"]["seed"]] = run
    return list(groups.values())


def _of_whole_seeds(runs: Sequence[Run], expected: int) -> list[Run]:
    """Return the runs of the seeds that are done: all rows of a table have the same seeds."""
    counts: dict[int, int] = {}
    for run in runs:
        seed = run["config"]["seed"]
        counts[seed] = counts.get(seed, 0) + 1
    return [run for run in runs if counts[run["config"]["seed"]] == expected]


def _method_cells(row: Row) -> list[str]:
    runs = list(row.group.runs.values())
    clients = [client for run in runs for client in run["clients"]]
    worst = [min(c["personalized"]["accuracy"] for c in run["clients"]) for run in runs]
    weight = [c["seconds"]["weight"] for c in clients if "weight" in c["seconds"]]
    return [
        f"`{row.group.settings['method']}`",
        row.accuracy.words(100),
        f"{100 * statistics.fmean(worst):.1f}",
        _gain(row),
        str(len(runs)),
        f"{runs[0]['config']['train']['learning-rate']:g}",
        str(runs[0]["rounds"]),
        _megabytes(row),
        f"{row.steps.mean:.0f}" if row.steps else "–",
        f"{statistics.fmean(c['seconds']['training'] for c in clients):.1f}",
        f"{statistics.fmean(weight):.2f}" if weight else "–",
    ]


def _megabytes(row: Row) -> str:
    runs = list(row.group.runs.values())
    each = [sum(run["communication"].values()) / len(run["clients"]) / 1e6 for run in runs]
    return f"{spread(each).mean:.2f}"


def _gain(row: Row) -> str:
    if row.is_reference or row.over_seeds is None:
        return "–"
    return row.over_seeds.words(100)
