"""The tables of docs/research/results.md, and what is said in words beside them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence

from potara_flwr.comparison.differences import Row, compare
from potara_flwr.comparison.runs import Group
from potara_flwr.core.markdown import table
from potara_flwr.core.statistics import spread
from potara_flwr.methods import METHODS
from potara_flwr.settings.schema import Settings
from simulations.method_quality.stored import Store
from simulations.method_quality.studies import (
    LEARNING_RATES,
    SENTIMENT,
    SENTIMENT_CLIENTS,
    TRANSPORT_METHODS,
    TRANSPORTS,
    Run,
    best_rates,
    contest,
    transports,
    tuning,
)

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


def is_tuned(store: Store) -> bool:
    """Say whether the whole grid was run."""
    wanted = list(tuning(store.benchmark))
    return len(store.of(wanted)) == len(wanted)


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
