"""What a client answers in a round, and what it ends with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from potara_flwr.methods.personalization import Personalization
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

    scores: dict[str, Score]
    """On test data: ``initial``, ``personalized``, and the method's other adapters."""
    adapters: dict[str, Adapter]
    """What is saved, by folder below the client's; ``""`` is the personalized adapter."""
    tensors: dict[str, Mapping[str, Tensor]] = field(default_factory=dict)
    """What is saved next to them and is no adapter, by file name."""
    weight: float | None = None
    """Mean weight on the federated adapter, where the method has one."""
    merge: Personalization | None = None
    """Potara's traces, weights and diagnosis."""
    seconds_local_training: float | None = None
    """Of training after the rounds, where there is some."""
    seconds_weight: float | None = None
    """Of finding the weight and merging, where there is one."""
