"""Closed forms for λ that were tried: each is measured next to the rules that ship.

A candidate sees more than a rule does (:class:`Case`), so that other estimates of the same
quantities can be compared. What became of each one, and why, stands in ``docs/research/method.md``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from potara_flwr.merging.rules import GRID, RULES, Evidence
from potara_flwr.merging.rules.excess_loss import (
    TEMPER,
    resampled_weights,
    tempered,
    tempered_slopes,
)
from potara_flwr.merging.segment import Segment, Weight
from potara_flwr.merging.traces import variance_traces
from potara_flwr.models.adapter import Adapter, SampleGradients
from potara_flwr.models.lora import LoraModel
from potara_flwr.tasks.base import ClientData, Samples, Task, take
from potara_flwr.training.gradients import per_sample_gradients

PAPER_DAMPING = 1e-8
POINTS = torch.linspace(0, 1, 201, dtype=torch.float64)


@dataclass(frozen=True)
class Case:
    """One client with its two adapters and the gradient pass at each."""

    model: LoraModel
    task: Task
    data: ClientData
    segment: Segment
    evidence: Evidence
    at_federated: SampleGradients
    at_local: SampleGradients

    def gradients_on(self, samples: Samples) -> tuple[SampleGradients, SampleGradients]:
        """Make the gradient pass at both adapters on other samples."""
        federated, local = (
            per_sample_gradients(self.model, self.task, adapter, samples).gradients
            for adapter in (self.segment.federated, self.segment.local)
        )
        return federated, local


Candidate = Callable[[Case], Weight]


def traces(
    case: Case, damping: float, gradients: tuple[SampleGradients, SampleGradients] | None = None
) -> float:
    """Return the paper's λ from other gradients or with another damping."""
    federated, local = gradients or (case.at_federated, case.at_local)
    return variance_traces(federated, local, damping).best_weight()


def paper(case: Case) -> float:
    """Return the paper's λ on 30 training samples, all but undamped."""
    samples = take(case.data.train, slice(0, len(case.evidence.losses_local)))
    return traces(case, PAPER_DAMPING, case.gradients_on(samples))


def relative_damping(case: Case) -> float:
    """Return the paper's λ with the mean Fisher entry as damping."""
    both = [*case.at_federated.values(), *case.at_local.values()]
    squares = sum(tensor.double().square().sum().item() for tensor in both)
    return traces(case, squares / sum(tensor.numel() for tensor in both))


def true_fisher(case: Case) -> float:
    """Return the paper's λ with labels drawn from each adapter's own predictions."""
    generator = torch.Generator().manual_seed(0)
    drawn = []
    for adapter in (case.segment.federated, case.segment.local):
        batch = case.task.collate(case.data.calibration)
        with torch.no_grad():
            shares = case.model(adapter, batch).softmax(-1)
        labels = torch.multinomial(shares, 1, generator=generator).squeeze(1)
        relabelled = {**case.data.calibration, "labels": labels}
        drawn.append(per_sample_gradients(case.model, case.task, adapter, relabelled).gradients)
    return traces(case, 1e-2, (drawn[0], drawn[1]))


def update_traces(case: Case) -> float:
    """Return the paper's λ with the traces of the effective update ΔW in place of A and B."""
    federated, local = (
        update_gradients(case, adapter) for adapter in (case.segment.federated, case.segment.local)
    )
    return traces(case, 1e-2, (federated, local))


def update_gradients(case: Case, adapter: Adapter) -> SampleGradients:
    """Return each sample's gradient with respect to ΔW of every adapted layer, (n, out, in)."""
    samples = case.task.collate(case.data.calibration)
    kept: dict[str, tuple[Tensor, Tensor]] = {}
    handles = []
    for name, module in case.model.module.named_modules():
        if name.endswith(".base_layer"):

            def keep(
                _: torch.nn.Module, args: tuple[Tensor], output: Tensor, name: str = name
            ) -> Tensor:
                # The frozen layer's output is where ΔW x is added; a fresh leaf takes its gradient.
                leaf = output.detach() if not output.requires_grad else output
                leaf = leaf if leaf.requires_grad else leaf.requires_grad_()
                kept[name] = (args[0].detach(), leaf)
                return leaf

            handles.append(module.register_forward_hook(keep))
    try:
        losses = case.task.losses(case.model(adapter, samples), samples)
    finally:
        for handle in handles:
            handle.remove()
    deltas = torch.autograd.grad(losses.sum(), [output for _, output in kept.values()])
    return {
        name: torch.einsum("nto,nti->noi", delta, inputs)
        for (name, (inputs, _)), delta in zip(kept.items(), deltas, strict=True)
    }


def mean_gradient(case: Case) -> float:
    """Return λ = (b − c)/(a + b − 2c) of the mean gradients' F⁻¹ products, without k = k terms."""
    a = b = c = 0.0
    for name, at_federated in case.at_federated.items():
        g_f, g_l = at_federated.double(), case.at_local[name].double()
        inverse = 1 / (0.5 * (g_f.square().mean(0) + g_l.square().mean(0)) + 1e-2)
        pairs = len(g_f) * (len(g_f) - 1)

        def product(x: Tensor, y: Tensor, w: Tensor = inverse, pairs: int = pairs) -> float:
            return ((x.sum(0) * y.sum(0) - (x * y).sum(0)) * w).sum().item() / pairs

        a, b, c = a + product(g_f, g_f), b + product(g_l, g_l), c + product(g_f, g_l)
    if a + b - 2 * c <= 0:
        return float(a < b)
    return min(max((b - c) / (a + b - 2 * c), 0.0), 1.0)


def ends(evidence: Evidence, temper: float = 0.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return each sample's loss at λ = 0 and 1 and slope at λ = 0 and 1, tempered."""
    return (
        tempered(evidence.losses_local, temper),
        tempered(evidence.losses_federated, temper),
        tempered_slopes(evidence.losses_local, evidence.slopes_local, temper),
        tempered_slopes(evidence.losses_federated, evidence.slopes_federated, temper),
    )


def slopes_only(case: Case) -> float:
    """Return where the line through both slopes is zero: the secant step."""
    loss_0, loss_1, slope_0, slope_1 = (values.mean().item() for values in ends(case.evidence))
    if slope_1 <= slope_0:
        return float(loss_1 < loss_0)
    return min(max(-slope_0 / (slope_1 - slope_0), 0.0), 1.0)


def parabola(case: Case) -> float:
    """Return the minimum of the parabola through the losses at 0, 1/2 and 1."""
    loss_0, loss_1, _, _ = (values.mean().item() for values in ends(case.evidence))
    bend = 2 * (loss_0 + loss_1) - 4 * case.evidence.losses_at(0.5).mean().item()
    if bend <= 0:
        return float(loss_1 < loss_0)
    return min(max(0.5 + (loss_0 - loss_1) / (2 * bend), 0.0), 1.0)


def cubic_curve(evidence: Evidence, temper: float) -> Tensor:
    """Return the cubic Hermite curve of the mean loss at POINTS, from losses and slopes."""
    loss_0, loss_1, slope_0, slope_1 = (values.mean() for values in ends(evidence, temper))
    rise, turn = loss_1 - loss_0 - slope_0, slope_1 - slope_0
    return loss_0 + slope_0 * POINTS + (3 * rise - turn) * POINTS**2 + (turn - 2 * rise) * POINTS**3


def cubic(case: Case, temper: float = 0.0) -> float:
    """Return the minimum of the cubic through losses and slopes at both ends."""
    return POINTS[cubic_curve(case.evidence, temper).argmin()].item()


def posterior(case: Case) -> float:
    """Return the mean of λ under exp(−n·loss), a uniform prior and the tempered cubic."""
    curve = cubic_curve(case.evidence, TEMPER)
    shares = (-len(case.evidence.losses_local) * curve).softmax(0)
    return (shares * POINTS).sum().item()


def tempered_quartic(case: Case) -> float:
    """Return the quartic rule's λ on tempered losses and slopes."""
    evidence = case.evidence
    loss_0, loss_1, slope_0, slope_1 = ends(evidence, TEMPER)
    return float(
        np.asarray(
            RULES["segment"](
                replace(
                    evidence,
                    losses_local=loss_0,
                    losses_federated=loss_1,
                    slopes_local=slope_0,
                    slopes_federated=slope_1,
                    losses_at=lambda weight: tempered(evidence.losses_at(weight)),
                )
            )
        )
    )


def tempered_grid(case: Case) -> float:
    """Return the grid point with the lowest mean tempered loss."""
    losses = [tempered(case.evidence.losses_at(point)).mean().item() for point in GRID]
    return GRID[losses.index(min(losses))]


def resampled(case: Case, temper: float, num_samples: int | None = None) -> float:
    """Return the excess-loss rule's λ with another temper or on the first samples only."""
    evidence = case.evidence
    if num_samples is not None:
        part = slice(0, num_samples)
        weights = evidence.resamples[:, part]
        weights = weights / weights.sum(1, keepdim=True).clamp_min(1e-12)
        evidence = replace(
            evidence,
            losses_federated=evidence.losses_federated[part],
            losses_local=evidence.losses_local[part],
            slopes_federated=evidence.slopes_federated[part],
            slopes_local=evidence.slopes_local[part],
            resamples=weights[weights.sum(1) > 0.5],
        )
    return resampled_weights(evidence, temper).mean().item()


def single(case: Case, temper: float = TEMPER) -> float:
    """Return the excess-loss λ without resampling."""
    n = len(case.evidence.losses_local)
    mean = torch.full((1, n), 1 / n, dtype=torch.float64)
    return resampled_weights(replace(case.evidence, resamples=mean), temper).item()


def blocks(case: Case) -> dict[str, Tensor]:
    """Return a λ per layer: a Newton step from the excess-loss λ on the d × d system of blocks.

    A block is a module's A, B or head. The slopes along the blocks are read off the gradients;
    their curvature is the empirical Fisher along the block directions, scaled to the curvature
    along the whole segment, with half its trace as ridge.
    """
    segment, weight = case.segment, resampled(case, TEMPER)
    names = list(segment.federated)
    along = [
        torch.stack(
            [
                gradients[name].double().flatten(1)
                @ (segment.federated[name] - segment.local[name]).double().flatten()
                for name in names
            ],
            dim=1,
        )
        for gradients in (case.at_federated, case.at_local)
    ]
    factors = [
        (-TEMPER * losses).exp()[:, None]
        for losses in (case.evidence.losses_federated, case.evidence.losses_local)
    ]
    at_federated, at_local = (
        slopes * factor for slopes, factor in zip(along, factors, strict=True)
    )
    slope = (weight * at_federated + (1 - weight) * at_local).mean(0)
    turn = (at_federated.mean(0) - at_local.mean(0)).sum().clamp_min(0.0)
    fisher = 0.5 * (at_federated.T @ at_federated + at_local.T @ at_local) / len(at_local)
    curvature = fisher * (turn / fisher.sum().clamp_min(1e-12))
    ridge = 0.5 * curvature.trace() + 1e-6
    step = torch.linalg.solve(curvature + ridge * torch.eye(len(names), dtype=torch.float64), slope)
    values = (weight - step).clamp(0.0, 1.0)
    return {
        name: torch.full_like(segment.federated[name], value.item())
        for name, value in zip(names, values, strict=True)
    }


CANDIDATES: dict[str, Candidate] = {
    "traces, training samples, damping 1e-8 (paper)": paper,
    "traces, damping 1e-8": lambda case: traces(case, PAPER_DAMPING),
    "traces, relative damping": relative_damping,
    "traces, 10 samples": lambda case: traces(
        case,
        1e-2,
        (
            {name: tensor[:10] for name, tensor in case.at_federated.items()},
            {name: tensor[:10] for name, tensor in case.at_local.items()},
        ),
    ),
    "traces, true Fisher": true_fisher,
    "traces of ΔW": update_traces,
    "mean gradients": mean_gradient,
    "slopes only": slopes_only,
    "parabola of three losses": parabola,
    "cubic": cubic,
    "cubic, tempered": functools.partial(cubic, temper=TEMPER),
    "quartic, tempered": tempered_quartic,
    "posterior mean": posterior,
    "grid, tempered": tempered_grid,
    "excess-loss, cross-entropy": functools.partial(resampled, temper=0.0),
    "excess-loss, q = 0.5": functools.partial(resampled, temper=0.5),
    "excess-loss, expected error": functools.partial(resampled, temper=1.0),
    "excess-loss, no resampling": single,
    "excess-loss, per layer": blocks,
    "excess-loss, 5 samples": functools.partial(resampled, temper=TEMPER, num_samples=5),
    "excess-loss, 10 samples": functools.partial(resampled, temper=TEMPER, num_samples=10),
    "excess-loss, 20 samples": functools.partial(resampled, temper=TEMPER, num_samples=20),
}

EVALUATIONS = {
    "segment": 1,
    "grid": 9,
    "grid, tempered": 9,
    "parabola of three losses": 1,
    "quartic, tempered": 1,
}
"""Forward passes over the calibration samples beyond the gradient pass, where there are any."""
