"""The mathematics of the paper, on tensors alone: traces, segment, rules, diagnosis.

Nothing here loads a model library or Flower: two adapters as tensors, and the gradients of some
samples, are all that it takes.
"""

from potara_flwr.merging.diagnosis import Diagnosis, diagnose
from potara_flwr.merging.rules import GRID, RULES, Evidence, Rule, bootstrap
from potara_flwr.merging.segment import (
    Segment,
    Space,
    Weight,
    deltas,
    interpolate,
    mean_weight,
    segment_between,
    truncate,
)
from potara_flwr.merging.traces import GradientMoments, VarianceTraces, damped, variance_traces

__all__ = [
    "GRID",
    "RULES",
    "Diagnosis",
    "Evidence",
    "GradientMoments",
    "Rule",
    "Segment",
    "Space",
    "VarianceTraces",
    "Weight",
    "bootstrap",
    "damped",
    "deltas",
    "diagnose",
    "interpolate",
    "mean_weight",
    "segment_between",
    "truncate",
    "variance_traces",
]
