"""The figures of a comparison: what accuracy costs, and how it moves with each swept number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from potara_flwr.comparison.differences import Row
from potara_flwr.comparison.runs import show
from potara_flwr.results.drawing import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PLAIN_LEGEND,
    PURPLE,
    SKY,
    SMALL,
    VERMILLION,
    new_figure,
    tidy,
)
from potara_flwr.results.tables import byte_unit
from potara_flwr.settings.groups import Value

COLOURS = (BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY, BLACK)
MARKERS = "os^Dv<>PX*hp"
LINES: tuple[Literal["-", "--", ":", "-."], ...] = ("-", "--", ":", "-.")
"""Seven colours in four kinds of line: 28 values before a pair comes again."""
NEAR = 0.012
"""Of the most bytes: points nearer to each other than this stand side by side."""
LEGEND_ROWS = 14
"""Entries in a column of the legend."""


class Looks:
    """Colour and marker of each row: one tells the first setting that differs, one the others.

    Parameters
    ----------
    rows : Sequence[Row]
        All rows.
    without : str, optional
        The setting that stands on the x axis.
    """

    def __init__(self, rows: Sequence[Row], without: str = "") -> None:
        names = [name for name in rows[0].group.settings if name != without]
        self.first, self.others = names[:1], names[1:]
        self.colours = _numbered(self._words(row, self.first) for row in rows)
        self.markers = _numbered(self._words(row, self.others) for row in rows)

    def of(self, row: Row) -> dict[str, Any]:
        """Return how a row is drawn."""
        colour = self.colours[self._words(row, self.first)]
        # Where one setting alone differs, markers tell those apart whose colours are the same.
        marker = self.markers[self._words(row, self.others)] if self.others else self._round(colour)
        return {
            "color": COLOURS[colour % len(COLOURS)],
            "marker": MARKERS[marker % len(MARKERS)],
            "linestyle": LINES[colour // len(COLOURS) % len(LINES)],
        }

    @staticmethod
    def _round(colour: int) -> int:
        """Return how often all colours were used up before this one."""
        return colour // len(COLOURS)

    @property
    def title(self) -> str:
        """The name above the legend, where one setting alone differs."""
        return "" if self.others else "".join(self.first)

    def handles(self) -> list[Line2D]:
        """Return the legend: a line for each colour, and a grey mark for each marker."""
        handles = []
        if self.first:
            for words, i in self.colours.items():
                colour, line = COLOURS[i % len(COLOURS)], LINES[i // len(COLOURS) % len(LINES)]
                marker = "" if self.others else MARKERS[self._round(i) % len(MARKERS)]
                handles.append(
                    Line2D([], [], linewidth=3, color=colour, linestyle=line, marker=marker,
                           markersize=8, label=words.removeprefix(f"{self.title} = "))
                )  # fmt: skip
        if self.others:
            for words, i in self.markers.items():
                marker = MARKERS[i % len(MARKERS)]
                handles.append(
                    Line2D([], [], linestyle="none", marker=marker, color=GREY, label=words)
                )
        return handles

    @staticmethod
    def _words(row: Row, names: Sequence[str]) -> str:
        return ", ".join(f"{name} = {show(row.group.settings[name])}" for name in names)


def accuracy_against_bytes(rows: Sequence[Row]) -> Figure:
    """Draw the mean accuracy of every row against all bytes sent, with its spread over seeds."""
    looks = Looks(rows)
    figure, axes = _canvas(looks)
    most = max(row.num_bytes.mean for row in rows)
    unit, name = byte_unit(most)
    places = side_by_side([row.num_bytes.mean for row in rows], NEAR * most)
    for place, row in zip(places, rows, strict=True):
        _point(axes, place / unit, row, looks.of(row) | {"linestyle": "none"})
    axes.set_xlim(-0.04 * max(most, 1) / unit, 1.08 * max(most, 1) / unit)
    axes.set_xlabel(f"bytes sent, down and up, all clients ({name})")
    return figure


def side_by_side(places: Sequence[float], near: float) -> list[float]:
    """Return places on an axis, moved where they would hide each other: those that are nearer than
    ``near`` to their neighbour stand ``near`` apart, around the middle of where they were.
    """
    groups: list[list[int]] = []
    for index in sorted(range(len(places)), key=places.__getitem__):
        if groups and places[index] - places[groups[-1][-1]] < near:
            groups[-1].append(index)
        else:
            groups.append([index])
    moved = list(places)
    for group in groups:
        middle = sum(places[index] for index in group) / len(group)
        for number, index in enumerate(group):
            moved[index] = middle + (number - (len(group) - 1) / 2) * near
    return moved


def accuracy_against(setting: str) -> Callable[[Sequence[Row]], Figure]:
    """Return what draws the mean accuracy against a swept number, a line per other setting."""

    def draw(rows: Sequence[Row]) -> Figure:
        looks = Looks(rows, without=setting)
        figure, axes = _canvas(looks)
        values = sorted({_number(row.group.settings[setting]) for row in rows})
        lines: dict[tuple[Value, ...], list[Row]] = {}
        for row in rows:
            settings = row.group.settings
            others = tuple(value for name, value in settings.items() if name != setting)
            lines.setdefault(others, []).append(row)
        # Side by side at each value, so that no spread hides another.
        step = min(0.04, 0.3 / len(lines))
        for i, line in enumerate(lines.values()):
            shift = (i - (len(lines) - 1) / 2) * step
            places = [values.index(_number(r.group.settings[setting])) + shift for r in line]
            style = looks.of(line[0])
            drawn = [100 * row.accuracy.mean for row in line]
            axes.plot(places, drawn, linewidth=1.4, **style | {"marker": ""})
            for x, row in zip(places, line, strict=True):
                _point(axes, x, row, style | {"linestyle": "none"})
        axes.set_xticks(range(len(values)), [f"{value:g}" for value in values])
        axes.set_xlim(-0.4, len(values) - 0.6)
        axes.set_xlabel(f"{setting} (one step for each value)")
        return figure

    return draw


def figures_of(rows: Sequence[Row]) -> dict[str, tuple[Callable[[Sequence[Row]], Figure], str]]:
    """Return file name → how it is drawn and the sentence that says how to read it."""
    spread = "Bars are one standard deviation over seeds; a point without one is a single seed."
    figures: dict[str, tuple[Callable[[Sequence[Row]], Figure], str]] = {
        "accuracy-against-bytes": (
            accuracy_against_bytes,
            "Up and to the left is better: what the personalized adapters reach, for what was "
            "sent by and to all clients together. Points of nearly equal bytes stand side by side. "
            f"{spread}",
        )
    }
    for name in rows[0].group.settings:
        values = [row.group.settings[name] for row in rows]
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            figures[f"accuracy-against-{name.replace('.', '-')}"] = (
                accuracy_against(name),
                f"The personalized adapters' mean accuracy at each value of {name}, "
                f"all else alike along a line. {spread}",
            )
    return figures


def _canvas(looks: Looks) -> tuple[Figure, Axes]:
    """Return a figure with its legend beside the plot, where it hides nothing."""
    handles = looks.handles()
    columns = -(-len(handles) // LEGEND_ROWS)
    figure = new_figure(6.8 + 2.6 * columns, max(4.2, 1 + 0.23 * min(len(handles), LEGEND_ROWS)))
    axes = figure.subplots()
    axes.set_ylabel("mean test accuracy of the\npersonalized adapters (%)")
    tidy(axes, "both")
    if handles:
        figure.legend(handles=handles, loc="outside right upper", ncols=columns, title=looks.title,
                      title_fontsize=SMALL, alignment="left", **PLAIN_LEGEND)  # fmt: skip
    return figure, axes


def _point(axes: Axes, x: float, row: Row, style: dict[str, Any]) -> None:
    deviation = 100 * row.accuracy.deviation if row.accuracy.deviation is not None else None
    axes.errorbar(x, 100 * row.accuracy.mean, deviation, markersize=7, markeredgecolor="white",
                  markeredgewidth=0.6, elinewidth=1, capsize=2.5, **style)  # fmt: skip


def _number(value: Value) -> float:
    return float(value)


def _numbered(words: Iterable[str]) -> dict[str, int]:
    return {word: i for i, word in enumerate(dict.fromkeys(words))}
