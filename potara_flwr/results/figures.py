"""The figures of a run. Each is a function from the results to a figure, with no global state."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from potara_flwr.results.distributions import OF_MANY
from potara_flwr.results.drawing import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PALE,
    PLAIN_LEGEND,
    PURPLE,
    SMALL,
    WIDTH,
    legend_above,
    new_figure,
    say,
    tidy,
    words,
)
from potara_flwr.results.marks import ADAPTER_COLOURS, in_percent, mark, rule_marks
from potara_flwr.results.tables import (
    Results,
    byte_unit,
    client_name,
    compares,
    is_many,
    merges,
    scientific,
    single_adapters,
)

PERSONALIZED_LINE: dict[str, Any] = {"color": BLACK, "linestyle": ":", "linewidth": 1.2}

ROUND_STEPS = [1, 2, 5, 10]


def accuracy_along_weight(results: Results) -> Figure:
    """Draw one panel per client: test accuracy along λ, with every rule's λ and the oracle."""
    shown = results["clients"]
    if not shown:
        return words("No client was personalized.")
    columns = len(shown) if len(shown) <= 4 else 4 if len(shown) <= 12 else 5
    rows = math.ceil(len(shown) / columns)
    width = min(WIDTH, max(6.5, 3.4 * columns))
    marks = rule_marks(results)
    handles = [Line2D([], [], label=label, **style) for label, style in marks.values()]
    handles.append(Line2D([], [], label="λ of the personalized adapter", **PERSONALIZED_LINE))
    legend_columns = 4 if width > 8 else 3
    legend_height = 0.25 * math.ceil(len(handles) / legend_columns)
    figure = new_figure(width, 2.1 * rows + 0.9 + legend_height)
    panels = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    for axes, client in zip(panels, shown, strict=False):
        _draw_client(axes, client, marks)
    for axes in panels[len(shown) :]:
        axes.set_axis_off()
    # A panel above a hole in the last row is the lowest of its column: it needs the tick labels.
    for axes in panels[max(0, len(shown) - columns) : len(shown)]:
        axes.tick_params(labelbottom=True)
    figure.supxlabel("mixing weight λ (0 = local adapter, 1 = federated adapter)", fontsize=10)
    figure.supylabel("test accuracy (%)", fontsize=10)
    figure.legend(handles=handles, loc="outside upper center", ncols=legend_columns, **PLAIN_LEGEND)
    return figure


def accuracy_of_merges(report: dict[str, Any], rule: str) -> Figure:
    """Draw the test accuracy along λ between two saved adapters, with every rule's λ and the
    oracle; ``rule`` is the one that chose the merge.
    """
    client = {"client": 0, **report}
    marks = rule_marks({"config": {"merge": {"rule": rule}}, "clients": [client]})
    figure = new_figure(6.5, 4.4)
    axes = figure.subplots()
    _draw_client(axes, client, marks)
    axes.set_title("")
    axes.set_xlabel("mixing weight λ (0 = the second adapter, 1 = the first)", fontsize=10)
    axes.set_ylabel("test accuracy (%)", fontsize=10)
    handles = [Line2D([], [], label=label, **style) for label, style in marks.values()]
    handles.append(Line2D([], [], label="λ of the merge", **PERSONALIZED_LINE))
    figure.legend(handles=handles, loc="outside upper center", ncols=3, **PLAIN_LEGEND)
    return figure


def traces_and_bound(results: Results) -> Figure:
    """Draw every client's variance traces, and the bound at both ends and at λ*."""
    clients = results["clients"]
    if not clients:
        return words("No client was personalized.")
    figure = new_figure(_width_for(len(clients)), 5.6)
    above, below = figure.subplots(2, 1, sharex=True)
    _draw_dots(
        above,
        [client["traces"] for client in clients],
        {
            "federated": ("a, federated", BLUE, "o"),
            "local": ("b, local", ORANGE, "s"),
            "cross": ("c, cross", PURPLE, "^"),
        },
    )
    above.set_ylabel("variance trace\n(no unit, log scale)")
    _draw_dots(
        below,
        [client["bound"] for client in clients],
        {
            "federated": ("λ = 1, federated", BLUE, "o"),
            "local": ("λ = 0, local", ORANGE, "s"),
            "merged": ("λ*, merged", GREEN, "D"),
        },
    )
    below.set_ylabel("bound tr Cov(θ)\n(no unit, log scale)")
    _client_ticks(below, clients)
    return figure


def accuracy_per_client(results: Results) -> Figure:
    """Draw every client's accuracies and their mean as bars: federated and local, where the method
    has such adapters, and personalized.
    """
    clients = results["clients"]
    if not clients:
        return words("No client was personalized.")
    figure = new_figure(_width_for(len(clients) + 1), 3.8)
    axes = figure.subplots()
    mean = results["summary"]["mean"]["accuracy"]
    scores = [
        {**client["accuracy"], "personalized": client["personalized"]["accuracy"]}
        for client in clients
    ]
    # The mean stands apart and is as wide on paper however many clients there are.
    stretch = max(1.0, len(clients) / 10)
    middle = len(clients) + 0.9 * stretch - 0.4
    drawn = {name: colour for name, colour in ADAPTER_COLOURS.items() if name in scores[0]}
    for order, (name, colour) in enumerate(drawn.items()):
        shift = order - (len(drawn) - 1) / 2
        heights = [in_percent(score[name]) for score in scores]
        places = [i + 0.27 * shift for i in range(len(clients))]
        bars = axes.bar(places, heights, 0.25, color=colour, label=name)
        beside = middle + 0.27 * shift * stretch
        average = axes.bar([beside], [in_percent(mean[name])], 0.25 * stretch, color=colour)
        for group in [average, bars] if len(clients) <= 4 else [average]:
            axes.bar_label(group, fmt="%.0f", padding=2, fontsize=SMALL)
    axes.axvline(len(clients) - 0.45 + 0.2 * stretch, color=GREY, linewidth=0.8)
    axes.set_ylim(0, 108)
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel("test accuracy (%)")
    _client_ticks(axes, clients)
    labels = [label.get_text() for label in axes.get_xticklabels()]
    axes.set_xticks([*axes.get_xticks(), middle], [*labels, "mean"])
    axes.set_xlim(-0.6, middle + 0.6 * stretch)
    tidy(axes)
    legend_above(axes)
    return figure


def accuracy_against_bytes(results: Results) -> Figure:
    """Draw the mean accuracy after each round, mostly the federated adapter's, against all bytes
    sent until then, and where the personalized adapters end.
    """
    rounds = results["rounds"]
    if not rounds:
        return words("No federated round was run: there are no bytes to draw accuracy against.")
    messages = results["communication"]["messages"]
    mean = results["summary"]["mean"]["accuracy"]
    curve = [(_bytes_until(messages, 0), mean["initial"])]
    curve += [(_bytes_until(messages, row["round"]), row["accuracy"]) for row in rounds]
    if curve[-1][1] is None:
        curve[-1] = (curve[-1][0], mean.get("federated"))
    total = sum(message["bytes_down"] + message["bytes_up"] for message in messages)
    unit, name = byte_unit(total)

    figure = new_figure(8, 4.2)
    axes = figure.subplots()
    x = [sent / unit for sent, accuracy in curve if accuracy is not None]
    y = [in_percent(accuracy) for _, accuracy in curve if accuracy is not None]
    axes.plot(
        x,
        y,
        color=BLUE,
        marker="o",
        markersize=_dot(rounds),
        label=f"{_scored_in_rounds(results)}, per round",
    )
    end = in_percent(mean["personalized"])
    axes.plot([x[-1], total / unit], [y[-1], end], color=GREEN, linestyle=":")
    star: dict[str, Any] = {"color": GREEN, "marker": "*", "markersize": 15, "linestyle": "none"}
    axes.plot([total / unit], [end], **star, label="personalized, at the end")
    if "local" in mean:
        axes.axhline(in_percent(mean["local"]), color=ORANGE, linestyle="--", label="local")
    axes.set_xlim(-0.02 * total / unit, 1.04 * total / unit)
    axes.set_xlabel(f"bytes sent so far, down and up, all clients ({name})")
    axes.set_ylabel("mean test accuracy (%)")
    tidy(axes)
    legend_above(axes)
    return figure


def learning_curves(results: Results) -> Figure:
    """Draw loss and accuracy over the rounds, mostly of the federated adapter."""
    rounds = results["rounds"]
    if not rounds:
        return words("No federated round was run: there is no learning curve.")
    figure = new_figure(WIDTH, 3.6)
    left, right = figure.subplots(1, 2)
    for axes, key, label, style in (
        (left, "training_loss", "training loss", {"color": ORANGE, "marker": "s"}),
        (left, "loss", "test loss", {"color": BLUE, "marker": "o"}),
        (right, "accuracy", "test accuracy", {"color": BLUE, "marker": "o"}),
    ):
        scale = 100 if key == "accuracy" else 1
        known = [(row["round"], scale * row[key]) for row in rounds if row[key] is not None]
        if known:
            x, y = zip(*known, strict=True)
            axes.plot(x, y, markersize=_dot(rounds), label=label, **style)
    left.set_ylabel("mean loss")
    right.set_ylabel("test accuracy (%)")
    for axes in (left, right):
        axes.set_xlabel("federated round")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=ROUND_STEPS))
        tidy(axes)
        if axes.lines:
            legend_above(axes)
        else:
            say(axes, "No round was evaluated.")
    return figure


FIGURES: dict[str, Callable[[Results], Figure]] = {
    "accuracy-along-weight": accuracy_along_weight,
    "traces-and-bound": traces_and_bound,
    "accuracy-per-client": accuracy_per_client,
    "accuracy-against-bytes": accuracy_against_bytes,
    "learning-curves": learning_curves,
}
"""File name → how it is drawn."""

NEEDS: dict[str, Callable[[Results], bool]] = {
    "accuracy-along-weight": compares,
    "traces-and-bound": merges,
}
"""Figure → whether a run has what it shows, where not all have."""


def figures_of(results: Results) -> dict[str, Callable[[Results], Figure]]:
    """Return the figures that a run has; where clients are many, none draws each of them."""
    figures = FIGURES | OF_MANY if is_many(results) else FIGURES
    return {
        name: draw for name, draw in figures.items() if name not in NEEDS or NEEDS[name](results)
    }


def _scored_in_rounds(results: Results) -> str:
    """Name what was scored after each round: the clients' own, where no adapter is for all."""
    return "federated" if "federated" in single_adapters(results) else "personalized"


def _draw_client(
    axes: Axes, client: dict[str, Any], marks: dict[str, tuple[str, dict[str, Any]]]
) -> None:
    weights = [point["weight"] for point in client["grid"]]
    heights = [in_percent(point["accuracy"]) for point in client["grid"]]
    axes.plot(weights, heights, color=GREY, marker=".", markersize=4, zorder=2)
    axes.axvline(client["personalized"]["weight"], zorder=1, **PERSONALIZED_LINE)
    for zorder, (name, (_, style)) in enumerate(marks.items(), start=3):
        if name in client["weights"]:
            height = in_percent(client["accuracy"][name])
            axes.plot([client["weights"][name]], [height], zorder=zorder, **style)
    axes.set_title(f"client {client_name(client)}", fontsize=10)
    axes.set_xlim(-0.08, 1.08)
    axes.set_xticks([0, 0.5, 1], ["0", "½", "1"])
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=ROUND_STEPS))
    axes.margins(y=0.12)
    axes.tick_params(labelsize=SMALL)
    tidy(axes, "both")


def _draw_dots(
    axes: Axes, rows: Sequence[dict[str, float]], series: dict[str, tuple[str, str, str]]
) -> None:
    """Draw one dot per client and key, side by side, on a log scale; zeros on the lower edge."""
    shifts = (-0.2, 0.0, 0.2)
    for shift, (key, (label, colour, marker)) in zip(shifts, series.items(), strict=True):
        style = mark(marker, colour, 6.5, 0.5)
        positive = [(i + shift, row[key]) for i, row in enumerate(rows) if row[key] > 0]
        axes.plot([x for x, _ in positive], [y for _, y in positive], label=label, **style)
        style |= {"markerfacecolor": "white", "markeredgecolor": colour, "markeredgewidth": 1.5}
        style |= {"transform": axes.get_xaxis_transform(), "clip_on": False, "in_layout": False}
        zeros = [i + shift for i, row in enumerate(rows) if row[key] <= 0]
        axes.plot(zeros, [0.0] * len(zeros), zorder=5, **style)
    _log_scale(axes, [row[key] for row in rows for key in series if row[key] > 0])
    for i in range(len(rows) - 1):
        axes.axvline(i + 0.5, color=PALE, linewidth=0.8)
    axes.tick_params(axis="x", length=0)
    tidy(axes)
    legend_above(axes)


def _log_scale(axes: Axes, values: Sequence[float]) -> None:
    """Set a log y axis that holds the values with room, and always has a label or two."""
    low, high = (min(values), max(values)) if values else (1.0, 10.0)
    axes.set_yscale("log")
    axes.set_ylim(low / 2, high * 2)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 50 * low else (1,)))
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _: scientific(value).replace(".0e", "e"))
    )
    axes.yaxis.set_minor_locator(NullLocator())


def _width_for(places: int) -> float:
    return min(WIDTH, max(5.5, 1.5 + 0.8 * places))


def _client_ticks(axes: Axes, clients: list[dict[str, Any]]) -> None:
    """Name as many clients on the x axis as can be read."""
    places = range(0, len(clients), math.ceil(len(clients) / 25))
    names = [client_name(clients[i]) for i in places]
    axes.set_xticks(places, names)
    if max(map(len, names)) > 4:
        axes.tick_params(axis="x", rotation=30)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.6, len(clients) - 0.4)
    axes.set_xlabel("client")


def _dot(rounds: Sequence[Any]) -> float:
    return 4 if len(rounds) <= 40 else 2


def _bytes_until(messages: list[dict[str, Any]], round_number: int) -> int:
    return sum(
        message["bytes_down"] + message["bytes_up"]
        for message in messages
        if message["round"] is not None and message["round"] <= round_number
    )
