"""Where in a base model adapters go, and what its head is, whatever its architecture."""

from __future__ import annotations

import re
from collections.abc import Sequence

from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import nn
from transformers.pytorch_utils import Conv1D

from potara_flwr.core.errors import SettingsError

PROJECTIONS = (
    ("q_proj", "v_proj"),
    ("query", "value"),
    ("q_lin", "v_lin"),
    ("q", "v"),
    ("query_key_value",),
    ("qkv",),
    ("c_attn",),
    ("qkv_proj",),
    ("Wqkv",),
)
"""Names of the query and value projections in transformers' models, where peft knows none."""


def find_head(base: nn.Module) -> tuple[str, ...]:
    """Return the modules with parameters that stand next to the pretrained part of a model.

    Raises
    ------
    SettingsError
        There are none.
    """
    pretrained = getattr(base, "base_model_prefix", "")
    head = [
        name
        for name, module in base.named_children()
        if name != pretrained and any(True for _ in module.parameters())
    ]
    if not head:
        raise SettingsError(
            f"task.model is a {type(base).__name__}, which has no head next to {pretrained!r}"
        )
    return tuple(head)


def target_modules(base: nn.Module, names: str) -> list[str]:
    """Return the modules that get an adapter: those named, or those of the architecture.

    Parameters
    ----------
    names : str
        Separated by commas; each ends the name of a linear module. Empty takes peft's choice for
        the architecture, or else its query and value projections.

    Raises
    ------
    SettingsError
        The model has no such linear module; the message lists the ones it has.
    """
    pretrained = getattr(base, "base_model_prefix", "")
    inside = f"{pretrained}." if hasattr(base, pretrained) else ""  # a head is trained in full
    linear = {
        name
        for name, module in base.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and name.startswith(inside)
    }

    def missing(wanted: Sequence[str]) -> list[str]:
        return [
            name for name in wanted if not any(f".{found}".endswith(f".{name}") for found in linear)
        ]

    wanted = [name.strip() for name in names.split(",") if name.strip()]
    architecture = getattr(getattr(base, "config", None), "model_type", "")
    known = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(architecture)
    choices = [wanted] if wanted else [*([known] if known else []), *PROJECTIONS]
    for choice in choices:
        if not missing(choice):
            return list(choice)
    leaves = sorted({re.sub(r".*\.", "", name) for name in linear})
    lacking = ", ".join(map(repr, missing(wanted))) or "of the names that are known"
    raise SettingsError(
        f"lora.target-modules is {names!r}, but the base model has no linear module {lacking}; it "
        f"has {', '.join(leaves)}"
    )
