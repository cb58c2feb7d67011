"""How adapters and merge rules look in every figure."""

from __future__ import annotations

import math
from typing import Any

from potara_flwr.messages.reports import ORACLE
from potara_flwr.results.drawing import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    YELLOW,
)
from potara_flwr.results.tables import Results, rule_names

ADAPTER_COLOURS = {"federated": BLUE, "local": ORANGE, "personalized": GREEN}
RULE_COLOURS = (VERMILLION, SKY, GREEN, YELLOW, PURPLE, BLUE, ORANGE)
RULE_MARKERS = "D^svPXph<>*"
"""Seven colours and eleven markers: 77 rules before a pair comes again."""


def rule_marks(results: Results) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return rule → its label and how its mark looks, in the order of drawing.

    Rules often agree on λ. The oracle is a wide ring, the chosen rule a large mark, and the others
    get smaller one after the other, so that a mark never hides the one below it.
    """
    chosen = results["config"]["merge"]["rule"]
    names = rule_names(results)
    marks = {ORACLE: ("oracle (sees test data)", mark("o", "none", 14, 1.6))}
    for name in sorted(names, key=lambda name: name != chosen):
        i = names.index(name)
        marker, colour = RULE_MARKERS[i % len(RULE_MARKERS)], RULE_COLOURS[i % len(RULE_COLOURS)]
        if name == chosen:
            marks[name] = f"{name} (chosen)", mark(marker, colour, 11, 1.4)
        else:
            marks[name] = name, mark(marker, colour, 8.5 - 3 * i / len(names), 0.6)
    return marks


def mark(marker: str, colour: str, size: float, edge: float) -> dict[str, Any]:
    """Return how a mark looks that no line joins."""
    return {
        "linestyle": "none",
        "marker": marker,
        "markersize": size,
        "markerfacecolor": colour,
        "markeredgecolor": BLACK,
        "markeredgewidth": edge,
    }


def in_percent(fraction: float | None) -> float:
    """Return a fraction in percent, as a number that a plot leaves out where there is none."""
    return math.nan if fraction is None else 100 * fraction
