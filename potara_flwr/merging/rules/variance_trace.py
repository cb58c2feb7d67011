"""The paper's rule: the λ that minimizes the trace of the merge's covariance."""

from potara_flwr.merging.rules.base import Evidence


def variance_trace(evidence: Evidence) -> float:
    """Return λ* = (b − c) / (a + b − 2c) (arXiv 2602.18658, closed-form mixing weight)."""
    return evidence.traces.best_weight()
