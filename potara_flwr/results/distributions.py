"""The figures of a run with many clients, in the place of those that draw each client apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from potara_flwr.results.drawing import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PLAIN_LEGEND,
    PURPLE,
    WIDTH,
    legend_above,
    new_figure,
    tidy,
)
from potara_flwr.results.marks import ADAPTER_COLOURS, rule_marks
from potara_flwr.results.tables import TRACES, Results, scientific, single_adapters

BINS = 40
BANDS = ((0.05, 0.95, 0.15), (0.25, 0.75, 0.3))
"""Two quantiles of the clients, and how dense what lies between them is drawn."""
LINES: tuple[dict[str, Any], ...] = (
    {"color": BLUE, "linestyle": "-"},
    {"color": ORANGE, "linestyle": "--"},
    {"color": PURPLE, "linestyle": ":"},
)
"""Told apart without colours, too."""


def accuracy_along_weight(results: Results) -> Figure:
    """Draw test accuracy along λ, the mean over clients and where most of them are, with every rule
    and the oracle at their means; and how many clients have which λ.
    """
    clients = [client for client in results["clients"] if "grid" in client]
    heights = 100 * np.array([[point["accuracy"] for point in c["grid"]] for c in clients])
    weights = np.median([[point["weight"] for point in c["grid"]] for c in clients], axis=0)
    figure = new_figure(WIDTH, 6.4)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    shown: list[float] = []
    for low, high, density in BANDS:
        ends = np.quantile(heights, (low, high), axis=0)
        shown += [ends.min(), ends.max()]
        label = f"{low:.0%} to {high:.0%} of the clients"
        above.fill_between(weights, *ends, color=GREY, alpha=density, linewidth=0, label=label)
    above.plot(weights, heights.mean(0), color=GREY, marker=".", label="mean over clients")
    accuracy = results["summary"]["mean"]["accuracy"]
    for zorder, (name, (label, style)) in enumerate(rule_marks(results).items(), start=3):
        chosen = [client["weights"][name] for client in clients if name in client["weights"]]
        if chosen and name in accuracy:
            at = [np.mean(chosen)], [100 * accuracy[name]]
            above.plot(*at, zorder=zorder, label=label, **style)
            shown.append(100 * accuracy[name])
    above.set_ylabel("test accuracy (%)")
    above.set_ylim(min(shown) - 4, max(shown) + 4)
    tidy(above)
    figure.legend(loc="outside upper center", ncols=4, **PLAIN_LEGEND)
    own = np.clip([client["personalized"]["weight"] for client in clients], 0, 1)
    below.hist(own, bins=BINS, range=(0, 1), color=GREEN)
    below.set_ylabel("clients")
    below.set_xlabel(
        "mixing weight λ (0 = local adapter, 1 = federated adapter); below, of the personalized "
        "adapters"
    )
    below.set_xlim(-0.03, 1.03)
    tidy(below)
    return figure


def traces_and_bound(results: Results) -> Figure:
    """Draw how the clients' variance traces, and the bounds at both ends and at λ*, are spread."""
    clients = results["clients"]
    figure = new_figure(WIDTH, 6.0)
    above, below = figure.subplots(2, 1)
    traces = [client["traces"] for client in clients]
    _draw_logarithms(above, traces, {key: f"{letter}, {key}" for letter, key in TRACES.items()})
    above.set_xlabel("variance trace (no unit, log scale)")
    bounds = {"federated": "λ = 1, federated", "local": "λ = 0, local", "merged": "λ*, merged"}
    _draw_logarithms(below, [client["bound"] for client in clients], bounds)
    below.set_xlabel("bound tr Cov(θ) (no unit, log scale)")
    return figure


def accuracy_per_client(results: Results) -> Figure:
    """Draw which share of the clients stays below every accuracy, with every adapter, and how many
    clients gain how much by personalization.
    """
    clients = results["clients"]
    scores = {
        name: np.array([100 * c["accuracy"][name] for c in clients if name in c["accuracy"]])
        for name in single_adapters(results)
        if name in ADAPTER_COLOURS
    }
    own = np.array([100 * client["personalized"]["accuracy"] for client in clients])
    figure = new_figure(WIDTH, 4.0)
    left, right = figure.subplots(1, 2)
    for name, values in {**scores, "personalized": own}.items():
        # Those of one adapter may all be another's: the thinner line is drawn later.
        width = 3.2 - 0.8 * len(left.lines)
        left.ecdf(values, color=ADAPTER_COLOURS[name], linewidth=width, label=name)
    left.set_xlim(0, 100)
    left.set_xlabel("test accuracy (%)")
    left.yaxis.set_major_formatter(PercentFormatter(1.0))
    left.set_ylabel("clients with at most this accuracy")
    tidy(left, "both")
    legend_above(left)
    gains = {name: own - values for name, values in scores.items() if len(values) == len(own)}
    for name, values in gains.items():
        right.hist(
            values, bins=BINS, range=_around_zero(gains.values()), histtype="step", linewidth=1.8,
            color=ADAPTER_COLOURS[name], label=f"over the {name} adapter",
        )  # fmt: skip
    right.axvline(0, color=BLACK, linewidth=0.8)
    right.set_xlabel("gain of the personalized adapter (points)")
    right.set_ylabel("clients")
    tidy(right)
    if gains:
        legend_above(right)
    return figure


OF_MANY: dict[str, Callable[[Results], Figure]] = {
    "accuracy-along-weight": accuracy_along_weight,
    "traces-and-bound": traces_and_bound,
    "accuracy-per-client": accuracy_per_client,
}
"""File name → how it is drawn where clients are many."""


def _draw_logarithms(
    axes: Axes, rows: Sequence[Mapping[str, float]], labels: Mapping[str, str]
) -> None:
    """Draw a histogram for each key, on one log scale; what is zero is told in the legend."""
    positive = {key: [row[key] for row in rows if row[key] > 0] for key in labels}
    every = [value for values in positive.values() for value in values] or [1.0]
    edges = np.geomspace(min(every) / 1.1, max(every) * 1.1, BINS + 1)
    for (key, label), line in zip(labels.items(), LINES, strict=True):
        zeros = len(rows) - len(positive[key])
        words = f"{label} ({zeros} at zero)" if zeros else label
        axes.hist(
            positive[key], bins=list(edges), histtype="step", linewidth=1.8, label=words, **line
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: scientific(value).replace(".0e", "e"))
    )
    axes.set_ylabel("clients")
    tidy(axes)
    legend_above(axes)


def _around_zero(gains: Any) -> tuple[float, float]:
    """Return a range with 0 in its middle that holds all gains."""
    most = max((float(np.abs(values).max()) for values in gains), default=0.0) or 1.0
    return -most, most
