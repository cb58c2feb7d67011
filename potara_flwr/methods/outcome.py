"""What a client answers in a round, and what it ends with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from potara_flwr.messages.reports import Personalized, Report, Seconds
from potara_flwr.methods.client import Client
from potara_flwr.models.adapter import Adapter
from potara_flwr.training.local_steps import Score


@dataclass(frozen=True)
class Update:
    """A client's answer in a round: an adapter, of which the shared tensors are sent."""

    adapter: Adapter
    loss: float
    """Mean training loss over the local steps."""


@dataclass(frozen=True)
class Outcome:
    """What a client ends with, and what is reported of it."""

    adapters: dict[str, Adapter]
    """What is saved, by folder below the client's; ``""`` is the personalized adapter."""
    report: Report
    """What may leave the client: numbers, no adapter."""
    tensors: dict[str, Mapping[str, Tensor]] = field(default_factory=dict)
    """What is saved next to the adapters and is none, by file name."""


def report_of(
    client: Client,
    scores: Mapping[str, Score],
    *,
    weight: float | None = None,
    local_training: float | None = None,
    weight_seconds: float | None = None,
    choice: Mapping[str, Any] | None = None,
    **merge: Any,
) -> Report:
    """Return the report of a client that has taken its last step.

    Parameters
    ----------
    scores : mapping
        On test data: ``initial``, ``personalized``, and the method's other adapters and rules.
    weight : float, optional
        Mean weight on the federated adapter, where the method has one.
    local_training, weight_seconds : float, optional
        Seconds of training after the rounds, and of finding the weight and merging.
    choice, **merge
        What a merge by evidence adds to ``personalized`` and to the report.
    """
    own = scores["personalized"]
    others = {name: score for name, score in scores.items() if name != "personalized"}
    return Report(
        optimizer_steps=client.steps,
        personalized=Personalized(
            accuracy=own.accuracy, loss=own.loss, weight=weight, **(choice or {})
        ),
        accuracy={name: score.accuracy for name, score in others.items()},
        loss={name: score.loss for name, score in others.items()},
        seconds=Seconds(
            training=client.seconds, local_training=local_training, weight=weight_seconds
        ),
        **merge,
    )


def single(
    client: Client, adapter: Adapter, *, local_training: float | None = None, **scores: Score
) -> Outcome:
    """Return the outcome where the personalized model is one adapter; ``scores`` are those of the
    method's other adapters.
    """
    scored = {
        "initial": client.score(client.model.initial),
        **scores,
        "personalized": client.score(adapter),
    }
    return Outcome({"": adapter}, report_of(client, scored, local_training=local_training))
