"""A client's last phase, start to end, without Flower: local training, traces, weight, merge.

Everything here runs on the client, on its own samples; what leaves it are the numbers in
:class:`Personalization`, never an adapter, a sample or a gradient.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

from potara_flwr.core.errors import EstimationError
from potara_flwr.core.seeds import derive_seed
from potara_flwr.core.stopwatch import Stopwatch
from potara_flwr.merging.diagnosis import Diagnosis, diagnose
from potara_flwr.merging.rules import GRID, RULES, Evidence, bootstrap
from potara_flwr.merging.segment import Segment, Weight, mean_weight, segment_between, truncate
from potara_flwr.merging.traces import damped, diagonal_fisher, variance_traces
from potara_flwr.models.adapter import Adapter
from potara_flwr.models.lora import LoraModel
from potara_flwr.settings.groups import CalibrationSettings
from potara_flwr.settings.schema import Settings
from potara_flwr.tasks.base import ClientData, Samples, Task, num_samples
from potara_flwr.training.gradients import per_sample_gradients
from potara_flwr.training.local_steps import (
    EVALUATION_BATCH,
    Once,
    Score,
    each_time,
    evaluate,
    sample_losses,
    train,
)


@dataclass(frozen=True)
class Personalization:
    """Both adapters of a client, their merge, and all that is reported of it."""

    local: Adapter
    personalized: Adapter
    rule: str
    weight: float
    fallback: str
    """The single adapter that was kept instead of the rule's merge, or empty."""
    reason: str
    """Why it was kept, or empty."""
    diagnosis: Diagnosis
    traces: dict[str, float]
    bound: dict[str, float]
    weights: dict[str, float]
    """Rule → λ (its mean over coordinates for an elementwise rule); ``oracle`` sees test data."""
    scores: dict[str, Score]
    """On test data: initial, federated, local, personalized, every rule, oracle."""
    grid: list[tuple[float, Score]]
    """Test scores along λ."""
    svd_error: float | None
    seconds_local_training: float
    seconds_weight: float
    """Gradient passes, the chosen rule, its diagnosis and the merge."""


def train_local(
    model: LoraModel, task: Task, data: ClientData, federated: Adapter, settings: Settings
) -> Adapter:
    """Train the local adapter on the client's own training samples, sending nothing: all of the
    local steps but those of :func:`refit`.

    It starts from the initial adapter (``cold``, the paper) or the federated one (``warm``).
    """
    adapter, _ = train(
        model,
        task,
        _local_start(model, federated, settings),
        data.train,
        settings.train,
        steps=settings.local.steps - refit_steps(settings),
        seed=derive_seed(settings.seed, "local training", data.client),
        who=f"client {data.client}, local training",
    )
    return adapter


def _local_start(model: LoraModel, federated: Adapter, settings: Settings) -> Adapter:
    return model.initial if settings.local.start == "cold" else federated


def local_once(
    model: LoraModel,
    task: Task,
    data: ClientData,
    federated: Adapter,
    settings: Settings,
    once: Once,
) -> tuple[Adapter, float]:
    """Return what :func:`train_local` gives, and the seconds it takes or took; it is not done
    again where ``once`` remembers it.
    """
    start = _local_start(model, federated, settings)
    return once("local adapter", start, lambda: train_local(model, task, data, federated, settings))


def refit_once(
    model: LoraModel, task: Task, data: ClientData, local: Adapter, settings: Settings, once: Once
) -> tuple[Adapter, float]:
    """Return what :func:`refit` gives, likewise."""
    return once("refitted adapter", local, lambda: refit(model, task, data, local, settings))


def refit_steps(settings: Settings) -> int:
    """Return how many of the local steps are taken after the weight is chosen."""
    return round(settings.local.refit_share * settings.local.steps)


def refit(
    model: LoraModel, task: Task, data: ClientData, local: Adapter, settings: Settings
) -> Adapter:
    """Take the rest of the local steps, now that the calibration samples have done their work, on
    training and calibration samples together.
    """
    steps = refit_steps(settings)
    if steps == 0:
        return local
    adapter, _ = train(
        model,
        task,
        local,
        data.train_and_calibration,
        settings.train,
        steps=steps,
        seed=derive_seed(settings.seed, "refit", data.client),
        who=f"client {data.client}, local training",
    )
    return adapter


def gather_evidence(
    model: LoraModel,
    task: Task,
    segment: Segment,
    calibration: Samples,
    settings: CalibrationSettings,
    seed: int,
) -> Evidence:
    """Make one gradient pass at each adapter over the calibration samples.

    ``seed`` decides the bootstrap resamples of them.

    Raises
    ------
    EstimationError
        A trace is not finite; names the adapter.
    """
    at_federated = per_sample_gradients(
        model, task, segment.federated_end, calibration, settings.batch_size
    )
    at_local = per_sample_gradients(
        model, task, segment.local_end, calibration, settings.batch_size
    )
    own_federated = segment.own_factors(at_federated.gradients, "federated")
    own_local = segment.own_factors(at_local.gradients, "local")
    return Evidence(
        traces=variance_traces(own_federated, own_local, settings.damping),
        fisher_federated=damped(diagonal_fisher(own_federated), settings.damping),
        fisher_local=damped(diagonal_fisher(own_local), settings.damping),
        losses_federated=at_federated.losses.double(),
        losses_local=at_local.losses.double(),
        slopes_federated=segment.slopes(at_federated.gradients),
        slopes_local=segment.slopes(at_local.gradients),
        losses_at=lambda weight: sample_losses(
            model, task, segment.at(weight), calibration, settings.batch_size or EVALUATION_BATCH
        ),
        resamples=bootstrap(num_samples(calibration), seed),
    )


def personalize(
    model: LoraModel,
    task: Task,
    data: ClientData,
    federated: Adapter,
    settings: Settings,
    once: Once = each_time,
) -> Personalization:
    """Turn the federated adapter into this client's personalized one.

    Parameters
    ----------
    once : Once
        Does the two trainings, or remembers what they gave.

    Raises
    ------
    TrainingError
        Local training diverged; names the client and the step.
    EstimationError
        A trace or loss behind the mixing weight is not finite; names the client and the adapter.
    """
    # 1. Local training.
    local, before = local_once(model, task, data, federated, settings, once)
    clock = Stopwatch()

    # 2. Traces, 3. weight.
    try:
        evidence = gather_evidence(
            model,
            task,
            segment_between(federated, local, settings.merge.space),
            data.calibration,
            settings.calibration,
            derive_seed(settings.seed, "evidence", data.client),
        )
        weights = {settings.merge.rule: RULES[settings.merge.rule](evidence)}
        chosen = weights[settings.merge.rule]
        diagnosis = diagnose(evidence, chosen)
        fallback = diagnosis.better if settings.merge.fallback and diagnosis.worse else ""
        reason = diagnosis.words if fallback else ""
        if settings.federation.rounds == 0:
            fallback, reason = "local", "no federated round was run: this is the local adapter"
        if fallback:
            chosen = float(fallback == "federated")
        clock.lap("weight")
        weights |= {name: rule(evidence) for name, rule in RULES.items() if name not in weights}
    except EstimationError as error:
        raise EstimationError(f"client {data.client}: {error}") from None

    # 4. Calibration samples back into training, merge.
    clock.lap("other rules")
    local, after = refit_once(model, task, data, local, settings, once)
    clock.lap("refit")
    segment = segment_between(federated, local, settings.merge.space)
    personalized, svd_error = merge(segment, chosen, settings)
    clock.lap("weight")

    # 5. Scores on test data, for the report only.
    def score_of(adapter: Adapter) -> Score:
        return evaluate(model, task, adapter, data.test, settings.train.evaluation_batch_size)

    @functools.cache
    def score_at(weight: float) -> Score:
        return score_of(merge(segment, weight, settings)[0])

    def score(weight: Weight) -> Score:
        if isinstance(weight, Mapping):
            return score_of(merge(segment, weight, settings)[0])
        return score_at(weight)

    grid = [(point, score_at(point)) for point in GRID]
    oracle, oracle_score = max(grid, key=lambda item: (item[1].accuracy, -item[1].loss))
    scores = {
        "initial": score_of(model.initial),
        "federated": score_at(1.0),
        "local": score_at(0.0),
        "personalized": score(chosen),
        **{name: score(weight) for name, weight in weights.items()},
        "oracle": oracle_score,
    }
    traces = evidence.traces
    return Personalization(
        local=local,
        personalized=personalized,
        rule=settings.merge.rule,
        weight=mean_weight(chosen),
        fallback=fallback,
        reason=reason,
        diagnosis=diagnosis,
        traces={"federated": traces.federated, "local": traces.local, "cross": traces.cross},
        bound={
            "federated": traces.bound(1.0),
            "local": traces.bound(0.0),
            "merged": traces.bound(traces.best_weight()),
        },
        weights={name: mean_weight(weight) for name, weight in weights.items()}
        | {"oracle": oracle},
        scores=scores,
        grid=grid,
        svd_error=svd_error,
        seconds_local_training=before + after,
        seconds_weight=clock.seconds["weight"],
    )


def merge(segment: Segment, weight: Weight, settings: Settings) -> tuple[Adapter, float | None]:
    """Merge at ``weight`` in the space of the settings; also return the error of an SVD, if any."""
    merged = segment.at(weight)
    if settings.merge.space == "delta" and settings.merge.svd:
        return truncate(merged, settings.lora.rank)
    return merged, None
