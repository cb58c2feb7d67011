"""Two adapters at once, each with a weight of its own for every sample or every token.

With A = [A₁; A₂] and B = [B₁, B₂] one adapter of rank 2r has the update of both. What comes out of
A has r entries of the first and r of the second, so weights on these weigh the adapters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from potara_flwr.adapters import LoraModel, lora_pairs
from potara_flwr.tasks.base import Samples

Tensors = Mapping[str, Tensor]
Weigh = Callable[[str, Tensor], Tensor]
"""Name of an A and its input, shape (rows, tokens, in) → weights of both adapters there, a shape
that broadcasts with (rows, tokens, 2)."""


@dataclass(frozen=True)
class Companion:
    """The base model as a function of one adapter, next to whatever else ``run`` puts into it."""

    model: LoraModel
    run: Callable[[Tensors, Samples], Tensor]

    @property
    def module(self) -> nn.Module:
        """The module in which dropout is turned on and off."""
        return self.model.module

    def __call__(self, adapter: Tensors, samples: Tensors) -> Tensor:
        """Return the logits."""
        return self.run(adapter, dict(samples))


def stack(first: Tensors, second: Tensors) -> dict[str, Tensor]:
    """Return the adapter whose update is the sum of both; its head is the second's."""
    stacked = dict(second)
    for a, b in lora_pairs(first):
        stacked[a] = torch.cat([first[a], second[a]], dim=0)
        stacked[b] = torch.cat([first[b], second[b]], dim=1)
    return stacked


def run_pair(
    model: LoraModel, first: Tensors, second: Tensors, samples: Samples, weigh: Weigh
) -> Tensor:
    """Return the logits of the base model with both adapters, weighted, and the second's head."""
    handles = []
    for a, _ in lora_pairs(first):
        ranks = torch.tensor([first[a].shape[0], second[a].shape[0]])

        def scale(
            _: nn.Module,
            args: tuple[Tensor],
            output: Tensor,
            a: str = a,
            ranks: Tensor = ranks,
        ) -> Tensor:
            weights = weigh(a, args[0])
            return output * weights.repeat_interleave(ranks.to(weights.device), dim=-1)

        owner = model.parameters[a].rpartition(".")[0]
        handles.append(model.module.get_submodule(owner).register_forward_hook(scale))
    try:
        return model(stack(first, second), samples)
    finally:
        for handle in handles:
            handle.remove()
