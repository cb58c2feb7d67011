"""Two adapters at once, each with a weight of its own for every sample or every token.

With A = [A₁; A₂] and B = [B₁, B₂] one adapter of rank 2r has the update of both. What comes out of
A has r entries of the first and r of the second, so weights on these weigh the adapters. Where the
heads are weighted too, each of their linear modules gives the weighted sum of what both give.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from potara_flwr.models.adapter import Adapter, kind_of, lora_pairs
from potara_flwr.models.lora import LoraModel

Tensors = Mapping[str, Tensor]
Weigh = Callable[[str, Tensor], Tensor]
"""Name of a weight and its module's input, shape (rows, …, in) → weights of the first and the
second adapter there, shape (rows, …, 2)."""


@dataclass(frozen=True)
class Companion:
    """The base model as a function of tensors that are not just one adapter: for the length of a
    call, ``enter`` makes an adapter of them, and does to the model what else is needed.
    """

    model: LoraModel
    enter: Callable[[Tensors, Tensors], AbstractContextManager[Tensors]]

    @property
    def module(self) -> nn.Module:
        """The module in which dropout is turned on and off."""
        return self.model.module

    def __call__(self, adapter: Tensors, samples: Tensors) -> Tensor:
        """Return the logits of a batch."""
        with self.enter(adapter, samples) as entered:
            return self.model(entered, samples)

    def generate(
        self, adapter: Tensors, samples: Tensors, max_new_tokens: int, stop: Sequence[int]
    ) -> Tensor:
        """Continue the prompts of a batch, see :meth:`LoraModel.generate`."""
        with self.enter(adapter, samples) as entered:
            return self.model.generate(entered, samples, max_new_tokens, stop)


def beside(first: Tensors, second: Tensors) -> Adapter:
    """Return an adapter on the devices of another: between messages adapters are on the CPU."""
    return {name: tensor.to(second[name].device) for name, tensor in first.items()}


def stack(first: Tensors, second: Tensors) -> Adapter:
    """Return the adapter whose update is the sum of both; its head is the second's."""
    stacked = dict(second)
    first = beside(first, second)
    for a, b in lora_pairs(first):
        stacked[a] = torch.cat([first[a], second[a]], dim=0)
        stacked[b] = torch.cat([first[b], second[b]], dim=1)
    return stacked


@contextmanager
def weighed(
    model: LoraModel, first: Tensors, second: Tensors, weigh: Weigh, *, heads: bool = False
) -> Iterator[Adapter]:
    """Give the stack of two adapters, with which the model weighs them for as long as this lasts.

    Parameters
    ----------
    heads : bool
        Weigh the heads too, which are linear (:meth:`Method.check`); else the second's is used.
    """
    handles = []

    def watch(name: str, hook: Callable[[nn.Module, tuple[Tensor], Tensor], Tensor]) -> None:
        owner = model.module.get_submodule(model.parameters[name].rpartition(".")[0])
        handles.append(owner.register_forward_hook(hook))

    for a, _ in lora_pairs(first):
        watch(a, _scale_ranks(a, (first[a].shape[0], second[a].shape[0]), weigh))
    for name in first if heads else ():
        if kind_of(name) == "head" and name.endswith(".weight"):
            bias = first.get(f"{name.removesuffix('.weight')}.bias")
            watch(name, _mix_outputs(name, first[name], bias, weigh))
    try:
        yield stack(first, second)
    finally:
        for handle in handles:
            handle.remove()


def _scale_ranks(
    name: str, ranks: tuple[int, int], weigh: Weigh
) -> Callable[[nn.Module, tuple[Tensor], Tensor], Tensor]:
    """Return a hook behind a stacked A that weighs the entries of each adapter."""

    def hook(_: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
        weights = weigh(name, args[0])
        repeats = torch.tensor(ranks, device=weights.device)
        return output * weights.repeat_interleave(repeats, dim=-1)

    return hook


def _mix_outputs(
    name: str, weight: Tensor, bias: Tensor | None, weigh: Weigh
) -> Callable[[nn.Module, tuple[Tensor], Tensor], Tensor]:
    """Return a hook behind a linear module of the second's head that mixes in the first's."""

    def hook(module: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
        weights = weigh(name, args[0])
        device = args[0].device
        own_bias = None if bias is None else bias.to(device)
        of_first = nn.functional.linear(args[0], weight.to(device), own_bias)
        return weights[..., :1] * of_first + weights[..., 1:] * output

    return hook
