"""The figures of docs/research/merge-quality.md."""

from __future__ import annotations

from matplotlib.figure import Figure

from potara_flwr.results.drawing import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PALE,
    PURPLE,
    SKY,
    VERMILLION,
    new_figure,
)
from simulations.merge_quality.statistics import (
    ALL,
    Cases,
    by,
    lead,
    mean,
    oracle_weight,
    paired,
    regime_of,
    regime_words,
    regret,
)

DRAWN = {
    "excess-loss": (GREEN, "D"),
    "segment": (SKY, "s"),
    "grid": (BLUE, "o"),
    "uniform": (ORANGE, "v"),
    "variance-trace": (VERMILLION, "^"),
}
"""Rule → colour and marker."""


def draw_regimes(cases: Cases) -> Figure:
    """Draw the mean regret of the shipped rules in every regime."""
    regimes = by(cases, regime_of)
    figure = new_figure(9, 0.3 * len(regimes) + 1.6)
    axes = figure.subplots()
    for rule, (colour, marker) in DRAWN.items():
        values = [mean(regret(case, rule) for case in group) for group in regimes.values()]
        axes.plot(values, range(len(regimes)), marker, color=colour, label=rule, alpha=0.9)
    labels = [", ".join(regime_words(regime)) for regime in regimes]
    axes.set_yticks(range(len(regimes)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.grid(axis="x", color=PALE)
    axes.set_axisbelow(True)
    axes.set_xlabel("mean regret against the oracle (points of accuracy)")
    figure.suptitle("group, local start, training samples, rounds", fontsize=9, x=0.02, ha="left")
    figure.legend(loc="outside upper right", ncols=5, frameon=False, fontsize=9)
    return figure


def draw_tuning(cases: Cases) -> Figure:
    """Draw what the merge gains over federated-then-fine-tuned in every warm regime."""
    regimes = by([case for case in cases if case["start"] == "warm"], regime_of)
    figure = new_figure(9, 4)
    axes = figure.subplots()
    for shift, (rule, colour) in enumerate(
        {"local": ORANGE, "excess-loss": GREEN, "oracle": GREY}.items()
    ):
        gains = [paired(group, lead(rule, "tuned")) for group in regimes.values()]
        places = [index + 0.27 * (shift - 1) for index in range(len(gains))]
        heights = [gain.mean for gain in gains]
        axes.bar(places, heights, 0.25, color=colour, label=rule)
        axes.errorbar(places, heights, [gain.error or 0.0 for gain in gains],
                      fmt="none", ecolor=BLACK, elinewidth=0.8, capsize=2)  # fmt: skip
    axes.axhline(0, color=BLACK, linewidth=0.8)
    labels = [
        f"{group}\nn = {'all' if samples == ALL else samples}\n{rounds} rounds"
        for group, _, samples, rounds in regimes
    ]
    axes.set_xticks(range(len(labels)), labels, fontsize=7)
    axes.set_ylabel("points over fine-tuned\n(± 2 standard errors)")
    figure.legend(loc="outside upper right", ncols=3, frameon=False, fontsize=9)
    return figure


def draw_weights(cases: Cases) -> Figure:
    """Draw each rule's mean λ in every regime against the oracle's."""
    regimes = by(cases, regime_of)
    oracle = [mean(map(oracle_weight, group)) for group in regimes.values()]
    figure = new_figure(6, 5)
    axes = figure.subplots()
    for rule, (colour, marker) in DRAWN.items():
        weights = [
            mean(case["rules"][rule]["weight"] for case in group) for group in regimes.values()
        ]
        axes.plot(oracle, weights, marker, color=colour, label=rule, alpha=0.85)
    axes.plot([0, 1], [0, 1], color=PURPLE, linewidth=0.8, linestyle="--")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("oracle's mean λ in a regime")
    axes.set_ylabel("rule's mean λ in that regime")
    axes.legend(frameon=False, fontsize=9)
    return figure
