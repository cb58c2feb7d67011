"""A model with the tensors in it that it is to run with, as a task calls it to score samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn


class AdapterRunner(Protocol):
    """A model that runs with whatever tensors it is handed at each call."""

    @property
    def module(self) -> nn.Module:
        """Where dropout is turned on and off."""

    def __call__(self, adapter: Mapping[str, Tensor], samples: Mapping[str, Tensor]) -> Tensor:
        """Return the logits, shape (n, …)."""

    def generate(
        self,
        adapter: Mapping[str, Tensor],
        samples: Mapping[str, Tensor],
        max_new_tokens: int,
        stop: Sequence[int],
    ) -> Tensor:
        """Return the most likely token after token, shape (n, new tokens)."""


@dataclass(frozen=True)
class AdaptedModel:
    """A base model with one adapter in it, for the length of each call."""

    model: AdapterRunner
    adapter: Mapping[str, Tensor]

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the logits of a batch."""
        return self.model(self.adapter, batch)

    def generate(
        self, batch: Mapping[str, Tensor], max_new_tokens: int, stop: Sequence[int]
    ) -> Tensor:
        """Continue the prompts of a batch, see :meth:`LoraModel.generate`."""
        return self.model.generate(self.adapter, batch, max_new_tokens, stop)
