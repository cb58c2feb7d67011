"""A LoRA adapter as named tensors: what each of them is. Needs torch alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

Adapter = dict[str, Tensor]
"""peft's name → tensor: ``….lora_A.weight`` (r × in), ``….lora_B.weight`` (out × r), the head."""


Kind = Literal["A", "B", "head"]


def kind_of(name: str) -> Kind:
    """Return what an adapter's tensor is: the factor A, the factor B, or a part of the head."""
    if "lora_A" in name:
        return "A"
    return "B" if "lora_B" in name else "head"


def lora_pairs(adapter: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    """Return the names of the (A, B) factors of every adapted layer."""
    return [(name, name.replace("lora_A", "lora_B")) for name in adapter if kind_of(name) == "A"]


def components(name: str, start: int, stop: int) -> tuple[Any, ...]:
    """Return the index of components ``start`` to ``stop`` of an adapter's update, which is a sum
    over them, in the tensor of this name: rows of A, columns of B; a head has all of it in each.
    """
    part = slice(start, stop)
    return {"A": (part,), "B": (slice(None), part), "head": (...,)}[kind_of(name)]


def first_components(adapter: Mapping[str, Tensor], rank: int) -> Adapter:
    """Return the adapter of the first ``rank`` components: r rows of A and r columns of B."""
    return {
        name: tensor[components(name, 0, rank)].contiguous() for name, tensor in adapter.items()
    }


def groups(adapter: Mapping[str, Tensor], each: int, most: int) -> list[list[str]]:
    """Cut the names of an adapter, in their order, into as few groups as fit a bound; A and B of a
    layer stay together.

    Parameters
    ----------
    each : int
        Bytes of a parameter.
    most : int
        Bytes of a group; a single layer may have more.
    """
    layers: dict[str, list[str]] = {}
    for name in adapter:
        layers.setdefault(name.partition(".lora_")[0], []).append(name)
    found: list[list[str]] = []
    room = 0
    for names in layers.values():
        size = each * sum(adapter[name].numel() for name in names)
        if not found or size > room:
            found.append([])
            room = most
        found[-1] += names
        room -= size
    return found


SampleGradients = dict[str, Tensor]
"""Adapter tensor name → the gradient of each sample's loss, shape (n, *shape of the tensor)."""
