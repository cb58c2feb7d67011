"""A LoRA adapter as named tensors: what each of them is. Needs torch alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

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


SampleGradients = dict[str, Tensor]
"""Adapter tensor name → the gradient of each sample's loss, shape (n, *shape of the tensor)."""
