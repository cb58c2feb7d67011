"""What every figure shares: colours for colour-blind readers, size, axes and legends."""

from __future__ import annotations

import io
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

BLACK, GREY, PALE = "#000000", "#767676", "#E4E4E4"
ORANGE, SKY, GREEN, YELLOW = "#E69F00", "#56B4E9", "#009E73", "#F0E442"
BLUE, VERMILLION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
"""The colours of Okabe and Ito, told apart by colour-blind readers."""

WIDTH = 10.0
"""Inches of a figure that fills the page."""
DPI = 150
"""Dots per inch."""
SMALL = 9
PLAIN_LEGEND: dict[str, Any] = {"frameon": False, "fontsize": SMALL, "labelspacing": 0.7}


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure, in inches, that no global state knows of."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def words(sentence: str) -> Figure:
    """Return a figure that says why there is nothing to draw."""
    figure = new_figure(6.5, 1.6)
    say(figure.subplots(), sentence)
    return figure


def say(axes: Axes, sentence: str) -> None:
    """Write a sentence in the place of a plot."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, sentence, ha="center", va="center", fontsize=11, transform=axes.transAxes)


def tidy(axes: Axes, grid: Literal["y", "both"] = "y") -> None:
    """Leave two spines and pale lines behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color=PALE, linewidth=0.8)
    axes.set_axisbelow(True)


def legend_above(axes: Axes) -> None:
    """Put the legend above the plot, where it hides nothing."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, **PLAIN_LEGEND)


def png_of(figure: Figure, dpi: int = DPI) -> bytes:
    """Return the figure as a PNG: the same bytes for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()
