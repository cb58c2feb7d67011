"""Potara: the merge of a federated and a local adapter, by the client's own samples.

Everything here runs on the client, on its own samples; what leaves it are the numbers of the
report, never an adapter, a sample or a gradient.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from potara_flwr.core.errors import EstimationError
from potara_flwr.core.seeds import derive_seed
from potara_flwr.core.stopwatch import Stopwatch
from potara_flwr.merging.diagnosis import Diagnosis, diagnose
from potara_flwr.merging.rules import GRID, RULES, Evidence, bootstrap
from potara_flwr.merging.segment import (
    ENDS,
    Segment,
    Weight,
    mean_weight,
    segment_between,
    truncate,
)
from potara_flwr.merging.traces import GradientMoments, VarianceTraces, damped
from potara_flwr.messages.reports import ORACLE, Bound, Diagnosed, Grid, Traces
from potara_flwr.methods.client import Client
from potara_flwr.methods.local_adapter import refit, refit_steps, train_local
from potara_flwr.methods.outcome import Outcome, report_of
from potara_flwr.models.adapter import Adapter, groups, lora_pairs
from potara_flwr.settings.schema import Settings
from potara_flwr.tasks.base import num_samples
from potara_flwr.training.gradients import HELD_BYTES, SAMPLE_BYTES, gradients_in_batches
from potara_flwr.training.local_steps import Score, sample_losses


def merge_by_evidence(client: Client, federated: Adapter) -> Outcome:
    """Turn the federated adapter into this client's personalized one (arXiv 2602.18658).

    Raises
    ------
    TrainingError
        Local training diverged; names the client and the step.
    EstimationError
        A trace or loss behind the mixing weight is not finite; names the client and the adapter.
    """
    space = client.settings.merge.space
    # 1. Local training.
    later = refit_steps(client.settings)
    trained, before = train_local(client, federated, later)
    clock = Stopwatch()

    # 2. Traces, 3. weight.
    weighed = weigh(client, segment_between(federated, trained, space), clock)

    # 4. Calibration samples that were held out, back into training.
    local, after = refit(client, trained, later)
    clock.lap("refit")

    # 5. Merge, and scores on test data, for the report only.
    segment = segment_between(federated, local, space)
    return conclude(client, segment, weighed, clock, local_training=before + after)


@dataclass(frozen=True)
class Weighed:
    """What the samples tell of two adapters."""

    evidence: Evidence
    choice: Choice
    weights: dict[str, Weight]
    """λ of every rule."""


def weigh(client: Client, segment: Segment, clock: Stopwatch) -> Weighed:
    """Gather the evidence, and have every rule choose a weight by it.

    Parameters
    ----------
    clock : Stopwatch
        The seconds behind the rule of the settings go to ``weight``, the others' elsewhere.

    Raises
    ------
    EstimationError
        A trace or loss is not finite; names the client and the adapter.
    """
    settings = client.settings
    try:
        evidence = gather_evidence(client, segment)
        choice = choose(evidence, settings)
        clock.lap("weight")
        weights: dict[str, Weight] = {settings.merge.rule: choice.by_rule}
        weights |= {name: rule(evidence) for name, rule in RULES.items() if name not in weights}
        clock.lap("other rules")
    except EstimationError as error:
        raise EstimationError(f"client {client.data.client}: {error}") from None
    return Weighed(evidence, choice, weights)


def conclude(
    client: Client,
    segment: Segment,
    weighed: Weighed,
    clock: Stopwatch,
    *,
    local_training: float | None = None,
) -> Outcome:
    """Merge by the weight that was chosen, and score what is compared."""
    evidence, chosen, weights = weighed.evidence, weighed.choice, weighed.weights
    personalized, svd_error = merge(segment, chosen.weight, client.settings)
    clock.lap("weight")
    compared: dict[str, Any] = {}
    shown = {name: mean_weight(weight) for name, weight in weights.items()}
    scores, points = score_merges(client, segment, {"personalized": chosen.weight, **weights})
    if points:
        oracle = max(range(len(GRID)), key=lambda at: (points[at].accuracy, -points[at].loss))
        scores[ORACLE], shown[ORACLE] = points[oracle], GRID[oracle]
        compared["grid"] = Grid(
            weight=list(GRID),
            accuracy=[score.accuracy for score in points],
            loss=[score.loss for score in points],
        )
    traces = evidence.traces
    report = report_of(
        client,
        scores,
        weight=mean_weight(chosen.weight),
        local_training=local_training,
        weight_seconds=clock.seconds["weight"],
        choice={
            "rule": client.settings.merge.rule,
            "fallback": chosen.fallback,
            "reason": chosen.reason,
        },
        traces=Traces(**asdict(traces)),
        bound=Bound(
            federated=traces.bound(1.0),
            local=traces.bound(0.0),
            merged=traces.bound(traces.best_weight()),
        ),
        weights=shown,
        diagnosis=Diagnosed.of(chosen.diagnosis),
        gradients="batched" if evidence.batched else "one at a time",
        svd_error=svd_error,
        **compared,
    )
    return Outcome({"": personalized, "local": segment.local}, report)


MOMENT_BYTES = 5 * 8
"""Of a parameter, that :class:`GradientMoments` keeps."""


def gather_evidence(client: Client, segment: Segment) -> Evidence:
    """Make a gradient pass at each adapter over the client's calibration samples, batch by batch:
    of a batch's gradients only sums are kept.

    Where these are too large for all layers at once
    (:data:`~potara_flwr.training.gradients.HELD_BYTES`), groups of layers have a pass each.

    Raises
    ------
    EstimationError
        A trace is not finite; names the adapter.
    """
    model, task, samples = client.model, client.task, client.data.calibration
    settings, train = client.settings.calibration, client.settings.train
    at_once = settings.batch_size or math.ceil(train.batch_size / train.accumulate)
    size = min(at_once, num_samples(samples))
    ends = (segment.federated_end, segment.local_end)
    losses: tuple[list[Tensor], ...] = ([], [])
    slopes = torch.zeros(2, num_samples(samples), dtype=torch.float64)
    traces = VarianceTraces(0.0, 0.0, 0.0)
    fishers: tuple[dict[str, Tensor], ...] = ({}, {})
    batched = True
    each = MOMENT_BYTES + SAMPLE_BYTES * size
    for number, names in enumerate(groups(segment.federated_end, each, HELD_BYTES)):
        moments, at = GradientMoments(), 0
        for passes in gradients_in_batches(model, task, ends, samples, size, names):
            own = (
                segment.own_factors(one.gradients, end)
                for one, end in zip(passes, ENDS, strict=True)
            )
            moments.add(*own)
            until = at + len(passes[0].losses)
            for one, of_end, steep in zip(passes, losses, slopes, strict=True):
                steep[at:until] += segment.slopes(one.gradients).cpu()
                if number == 0:
                    of_end.append(one.losses.double().cpu())
                batched &= one.batched
            at = until
            del passes, one  # before those of the next batch are computed
        traces += moments.traces(settings.damping)
        for fisher, end in zip(fishers, ENDS, strict=True):
            found = damped(moments.fisher(end), settings.damping)
            fisher.update({name: tensor.cpu() for name, tensor in found.items()})
    losses_federated, losses_local = (torch.cat(parts) for parts in losses)
    return Evidence(
        traces=traces,
        fisher_federated=fishers[0],
        fisher_local=fishers[1],
        losses_federated=losses_federated,
        losses_local=losses_local,
        slopes_federated=slopes[0],
        slopes_local=slopes[1],
        losses_at=lambda weight: sample_losses(model, task, segment.at(weight), samples, size),
        resamples=bootstrap(
            num_samples(samples), derive_seed(client.settings.seed, "evidence", client.data.client)
        ),
        seen=settings.source == "training",
        batched=batched,
    )


@dataclass(frozen=True)
class Choice:
    """The weight of the merge that is saved, and why."""

    by_rule: Weight
    weight: Weight
    """That of the rule, or 0 or 1 where a single adapter is used instead."""
    fallback: str
    """That adapter, or empty."""
    reason: str
    """Why it is used, or empty."""
    diagnosis: Diagnosis


def choose(evidence: Evidence, settings: Settings) -> Choice:
    """Have the rule of the settings choose a weight, and a single adapter in its place where
    evidence that neither has seen says that this is better.
    """
    by_rule = RULES[settings.merge.rule](evidence)
    diagnosis = diagnose(evidence, by_rule)
    falls_back = settings.merge.fallback and diagnosis.worse and not evidence.seen
    fallback = diagnosis.better if falls_back else ""
    reason = diagnosis.words if fallback else ""
    if settings.federation.rounds == 0:
        fallback, reason = "local", "no federated round was run: this is the local adapter"
    weight = float(fallback == "federated") if fallback else by_rule
    return Choice(by_rule, weight, fallback, reason, diagnosis)


def merge(segment: Segment, weight: Weight, settings: Settings) -> tuple[Adapter, float | None]:
    """Merge at ``weight`` in the space of the settings; also return the error of an SVD, if any."""
    merged = segment.at(weight)
    if settings.merge.space == "delta" and settings.merge.svd:
        ranks = {a: segment.federated[a].shape[0] for a, _ in lora_pairs(merged)}
        return truncate(merged, ranks)
    return merged, None


def score_merges(
    client: Client, segment: Segment, weights: Mapping[str, Weight]
) -> tuple[dict[str, Score], list[Score]]:
    """Return the test scores of the single adapters and of the merges at some weights, and those
    along λ (:data:`GRID`); each merge is scored once. Without ``merge.compare``, the personalized
    one is the only merge, and there are none along λ.
    """

    def score_of(weight: Weight) -> Score:
        return client.score(merge(segment, weight, client.settings)[0])

    score_at = functools.cache(score_of)
    compares = client.settings.merge.compare
    points = [score_at(point) for point in GRID] if compares else []
    weights = weights if compares else {"personalized": weights["personalized"]}
    scores = {
        "initial": client.score(client.model.initial),
        "federated": score_at(1.0),
        "local": score_at(0.0),
        **{
            name: score_of(weight) if isinstance(weight, Mapping) else score_at(weight)
            for name, weight in weights.items()
        },
    }
    return scores, points
