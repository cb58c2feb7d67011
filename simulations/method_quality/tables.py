"""The tables of docs/research/results.md and of README, and what is said in words beside them."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from potara_flwr.comparison.differences import Row, client_differences, compare
from potara_flwr.comparison.runs import Group
from potara_flwr.core.markdown import table
from potara_flwr.core.statistics import Difference, difference, spread
from potara_flwr.merging.rules import RULES
from simulations.method_quality.stored import Store
from simulations.method_quality.studies import (
    BASELINE,
    FRESH,
    REFERENCE,
    TRANSPORT_METHODS,
    TRANSPORT_SEEDS,
    TRANSPORTS,
    Run,
    by_rounds,
    contest,
    transports,
)

LEAST_SEEDS = 3
"""Of fewer the standard error says next to nothing."""
SINGLE = ("federated", "local")
"""The adapters that are merged."""
TIE = 1e-9
"""Accuracies nearer to each other than this are equal."""


def groups_of(
    store: Store, entries: Sequence[str] = (), seeds: Sequence[int] = ()
) -> dict[str, Group]:
    """Return entry → its runs, of the seeds that every entry has that was run at all, so that all
    rows of a table have the same seeds; of all entries or of some, of the benchmark's seeds or of
    others.
    """
    seeds = seeds or store.benchmark.seeds
    rates = store.rates()
    runs: dict[str, dict[int, Run]] = {entry: {} for entry in entries or store.benchmark.entries}
    for seed in seeds:
        for entry, settings in contest(store.benchmark, seed, rates).items():
            if entry in runs and (run := store.one(settings)) is not None:
                runs[entry][seed] = run
    done = {entry: found for entry, found in runs.items() if found}
    whole = [seed for seed in seeds if all(seed in f for f in done.values())]
    return {
        entry: Group({"method": entry}, {seed: found[seed] for seed in whole})
        for entry, found in done.items()
        if whole
    }


def methods_of(store: Store) -> list[Row]:
    """Return a row for each entry of a benchmark that was run, the best first."""
    groups = groups_of(store)
    if REFERENCE not in groups:
        return []
    rows = compare(list(groups.values()), [f"method={REFERENCE}"])
    return sorted(rows, key=lambda row: -row.accuracy.mean)


def not_run(store: Store) -> list[str]:
    """Return the entries of a benchmark of which no table tells."""
    groups = groups_of(store)
    return [entry for entry in store.benchmark.entries if entry not in groups]


def transports_of(store: Store) -> list[Row]:
    """Return a row for each method and transport, against float32."""
    rates = store.rates()
    groups: dict[tuple[str, str], Group] = {}
    for seed in range(TRANSPORT_SEEDS):
        runs = store.of(transports(store.benchmark, seed, rates))
        if len(runs) == len(TRANSPORT_METHODS) * len(TRANSPORTS):
            for run in runs:
                key = (run["method"], run["config"]["federation"]["transport"])
                names = ("method", "federation.transport")
                group = groups.setdefault(key, Group(dict(zip(names, key, strict=True))))
                group.runs[seed] = run
    return compare(list(groups.values()), ["federation.transport=float32"]) if groups else []


def rounds_of(store: Store) -> list[Row]:
    """Return a row for each method and number of rounds, against Potara at the same number, of the
    seeds that all have.
    """
    runs: dict[tuple[str, int], dict[int, Run]] = {}
    for seed in FRESH:
        of_seed = {
            (method, rounds): store.one(settings)
            for method, rounds, settings in by_rounds(store.benchmark, seed, store.rates())
        }
        if all(of_seed.values()):
            for key, run in of_seed.items():
                assert run is not None
                runs.setdefault(key, {})[seed] = run
    groups = [Group({"method": m, "rounds": rounds}, found) for (m, rounds), found in runs.items()]
    return compare(groups, [f"method={REFERENCE}"]) if groups else []


def rounds_table(rows: Sequence[Row]) -> str:
    """Return what every method reaches with a number of rounds, and what it costs."""
    return table(
        ["`method`", "rounds", "accuracy (%)", "over potara with as many rounds (points)",
         "MB a client", "steps a client"],
        [
            [f"`{row.group.settings['method']}`", str(row.group.settings["rounds"]),
             row.accuracy.words(100), _gain(row), f"{_megabytes(row.group):.2f}",
             f"{row.steps.mean:.0f}" if row.steps else "–"]
            for row in rows
        ],
    )  # fmt: skip


def rounds_to_equal(rows: Sequence[Row]) -> list[str]:
    """Say for every number of Potara's rounds how many the other methods need for its accuracy."""
    curves: dict[str, dict[int, float]] = {}
    for row in rows:
        method, rounds = row.group.settings["method"], row.group.settings["rounds"]
        curves.setdefault(str(method), {})[int(rounds)] = row.accuracy.mean
    said = []
    for rounds, reached in curves.pop(REFERENCE).items():
        parts = []
        for method, curve in curves.items():
            enough = [number for number, accuracy in curve.items() if accuracy >= reached]
            few = f"{min(enough)}" if enough else f"more than the {max(curve)} tried"
            parts.append(f"`{method}` needs {few}")
        words = f"{rounds} rounds of `{REFERENCE}` ({100 * reached:.1f} %)"
        said.append(f"- For what {words} reach, {', '.join(parts)}.")
    return said


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
             str(len(row.group.runs)), f"{_megabytes(row.group):.2f}"]
            for row in rows
        ],
    )  # fmt: skip


def rates_table(store: Store) -> str:
    """Return the accuracy of every learning rate of the grid at the tuning seed."""
    found, best = store.tuned(), store.rates()
    rates = store.benchmark.rates
    rows = []
    for entry in tuned_entries(store):
        cells = []
        for rate in rates:
            text = f"{100 * found[entry, rate]:.1f}"
            cells.append(f"**{text}**" if rate == best[entry] else text)
        rows.append([f"`{entry}`", *cells])
    return table(["`method`", *(f"{rate:g}" for rate in rates)], rows)


def tuned_entries(store: Store) -> list[str]:
    """Return the entries whose whole grid was run."""
    found, rates = store.tuned(), store.benchmark.rates
    return [
        entry
        for entry in store.benchmark.entries
        if rates and all((entry, rate) in found for rate in rates)
    ]


def at_the_ends(store: Store) -> str:
    """Say whose best learning rate is the lowest or the highest of the grid."""
    best, rates = store.rates(), store.benchmark.rates
    found = [
        f"{end} of the grid is best for {', '.join(entries)}"
        for end, rate in (("the lowest", min(rates)), ("the highest", max(rates)))
        if (entries := [entry for entry in tuned_entries(store) if best[entry] == rate])
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


def rules_table(group: Group) -> str:
    """Return what the merges of every rule reach, along the same runs of Potara."""
    clients = _clients(group)
    names = [
        name
        for name in ("initial", *SINGLE, "personalized", *RULES, "oracle")
        if all(name in client["accuracy"] for client in clients)
    ]
    rows = []
    for name in names:
        seeds = [
            statistics.fmean(client["accuracy"][name] for client in _of_run(run))
            for run in group.runs.values()
        ]
        merged = name not in ("initial", *SINGLE)
        weights = [c["weights"][name] for c in clients if name in c.get("weights", {})]
        rows.append(
            [
                f"`{name}`" if name in RULES else name,
                spread(seeds).words(100),
                f"{100 * _mean_regret(clients, name):.2f}",
                f"{100 * _share(clients, name):.0f}" if merged else "–",
                f"{statistics.fmean(weights):.2f}" if weights else "–",
            ]
        )
    return table(
        ["adapter or rule", "accuracy (%)", "regret (points)",
         "no worse than the better single adapter (% of clients)", "mean λ"],
        rows,
    )  # fmt: skip


def aims_table(stores: Sequence[Store]) -> str:
    """Return what merging is worth on every benchmark."""
    rows = []
    for store in stores:
        # Of all fresh seeds that both have, whatever the other methods have; else of the others.
        groups = groups_of(store, (REFERENCE, BASELINE), FRESH)
        if len(groups) < 2:
            groups = groups_of(store, (REFERENCE, BASELINE))
        if len(groups) < 2:
            continue
        ours, theirs = groups[REFERENCE], groups[BASELINE]
        clients, gains = _clients(ours), client_differences(ours, theirs)
        each = [gain for of_seed in gains.values() for gain in of_seed.values()]
        over_grid = [
            statistics.fmean(
                c["accuracy"]["personalized"] - c["accuracy"]["grid"] for c in _of_run(run)
            )
            for run in ours.runs.values()
        ]
        rows.append(
            [
                store.benchmark.title,
                ", ".join(map(str, ours.runs)),
                _words(difference([statistics.fmean(c.values()) for c in gains.values()])),
                f"{100 * statistics.fmean(gain >= -TIE for gain in each):.0f}",
                f"{100 * _share(clients, 'personalized'):.0f}",
                f"{100 * _mean_regret(clients, 'personalized'):.2f}",
                _words(difference(over_grid)),
            ]
        )
    return table(
        ["benchmark", "seeds", "over FedIT + fine-tuning (points)",
         "no worse than it (% of clients)",
         "no worse than the better single adapter (% of clients)", "regret (points)",
         "over a grid search for λ (points)"],
        rows,
    )  # fmt: skip


def readme_table(stores: Sequence[Store], titles: Mapping[str, str], methods: Sequence[str]) -> str:
    """Return methods × benchmarks: accuracy, mean ± standard deviation over seeds.

    Parameters
    ----------
    titles : Mapping
        Benchmark → the head of its column, the main one first: methods stand in the order of their
        accuracy on the first one that they were run on.
    methods : Sequence of str
        Those that are shown, where they were run.
    """
    groups = {store.name: groups_of(store) for store in stores}
    found = {
        entry: [groups[name].get(entry) for name in titles]
        for entry in methods
        if any(entry in groups[name] for name in titles)
    }

    def place(entry: str) -> tuple[int, float]:
        column = next(at for at, group in enumerate(found[entry]) if group)
        group = found[entry][column]
        assert group is not None
        return column, -statistics.fmean(_means(group))

    rows = []
    for entry in sorted(found, key=place):
        cells = [spread(_means(group)).words(100) if group else "–" for group in found[entry]]
        rows.append([f"`{entry}`", *cells])
    return table(["`method`", *titles.values()], rows)


def _clients(group: Group) -> list[dict[str, Any]]:
    """Return what is kept of the clients of all runs."""
    return [client for run in group.runs.values() for client in _of_run(run)]


def _of_run(run: Run) -> list[dict[str, Any]]:
    """Return what is kept of every client; ``accuracy`` has that of its own adapter too."""
    return [
        client
        | {"accuracy": client["accuracy"] | {"personalized": client["personalized"]["accuracy"]}}
        for client in run["clients"]
    ]


def _means(group: Group) -> list[float]:
    return [run["summary"]["mean"]["accuracy"]["personalized"] for run in group.runs.values()]


def _mean_regret(clients: Iterable[dict[str, Any]], name: str) -> float:
    return statistics.fmean(c["accuracy"]["oracle"] - c["accuracy"][name] for c in clients)


def _share(clients: Iterable[dict[str, Any]], name: str) -> float:
    """Return the share of clients with no less accuracy than their better single adapter."""
    return statistics.fmean(
        c["accuracy"][name] >= max(c["accuracy"][single] for single in SINGLE) - TIE
        for c in clients
    )


def _words(found: Difference | None) -> str:
    return found.words(100) if found is not None else "–"


def _method_cells(row: Row) -> list[str]:
    runs = list(row.group.runs.values())
    clients = _clients(row.group)
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
        f"{_megabytes(row.group):.2f}",
        f"{row.steps.mean:.0f}" if row.steps else "–",
        f"{statistics.fmean(c['seconds']['training'] for c in clients):.1f}",
        f"{statistics.fmean(weight):.2f}" if weight else "–",
    ]


def _megabytes(group: Group) -> float:
    return statistics.fmean(
        sum(run["communication"].values()) / len(run["clients"]) / 1e6
        for run in group.runs.values()
    )


def _gain(row: Row) -> str:
    if row.is_reference or row.over_seeds is None:
        return "–"
    return row.over_seeds.words(100)
