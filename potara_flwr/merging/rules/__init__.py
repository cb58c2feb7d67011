"""The merge rules: one file a rule, one line here."""

from potara_flwr.merging.rules.base import Evidence, Rule, bootstrap
from potara_flwr.merging.rules.excess_loss import excess_loss
from potara_flwr.merging.rules.fisher import fisher
from potara_flwr.merging.rules.grid import GRID, grid
from potara_flwr.merging.rules.segment import segment
from potara_flwr.merging.rules.uniform import uniform
from potara_flwr.merging.rules.variance_trace import variance_trace

__all__ = ["BY_LOSS", "GRID", "RULES", "Evidence", "Rule", "bootstrap"]

RULES: dict[str, Rule] = {
    "excess-loss": excess_loss,
    "variance-trace": variance_trace,
    "segment": segment,
    "uniform": uniform,
    "grid": grid,
    "fisher": fisher,
}

BY_LOSS = ("segment", "grid")
"""Rules that look for the lowest loss on the samples, which is the local adapter's where it was
trained on them."""
