"""Where in a base model adapters go, and what its head is, whatever its architecture."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import nn
from transformers import PreTrainedModel
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
    ("query_proj", "value_proj"),
    ("projection_query", "projection_value"),
    ("to_query", "to_key"),
    ("Wq", "Wv"),
    ("q_head", "v_head"),
    # Latent attention: the projections from the compressed query, and to keys and values.
    ("q_b_proj", "kv_b_proj"),
    ("q_proj", "kv_b_proj"),
    ("q_a_proj", "kv_b_proj"),
    ("q_proj", "kv_proj"),
    ("kv_proj",),
    ("in_proj",),
)
"""Names of the query and value projections in transformers' models, where peft knows none."""
ALL_LINEAR = "all-linear"
"""peft's word for all linear modules."""
TOWER = re.compile(r"(^|\.)(vision|visual|image|audio|speech)\w*\.")
"""Part of a language model that sees or hears, which texts do not reach."""


def find_head(base: nn.Module) -> tuple[str, ...]:
    """Return the modules that are trained in full: those with parameters that stand next to the
    pretrained part of a model, which its ``base_model_prefix`` names; where no module has that
    name, or none stands next to it, those whose shape depends on the number of classes.

    peft finds a module by the end of its name. What ends the name of a module of the pretrained
    part too is taken apart into modules that do not; where there are none such, it stays frozen.

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
    if not hasattr(base, pretrained) or not head:
        head = sorted({name.rpartition(".")[0] for name in class_parameters(base)})
    found = tuple(part for name in head for part in _by_name_alone(base, name, head))
    if not found:
        raise SettingsError(
            f"task.model is a {type(base).__name__}, which has no head for classes next to "
            f"{pretrained!r}; choose another architecture"
        )
    return found


def class_parameters(base: nn.Module) -> list[str]:
    """Return the parameters whose shape depends on the number of classes, by name.

    Two models of the architecture are made without memory, one for a class more.
    """
    config: Any = getattr(base, "config", None)
    if not hasattr(config, "num_labels"):
        return []
    shapes = []
    for more in (0, 1):
        other = copy.deepcopy(config)
        other.num_labels = config.num_labels + more
        with torch.device("meta"):
            twin = type(base)(other)
        shapes.append({name: parameter.shape for name, parameter in twin.named_parameters()})
    return [name for name, shape in shapes[0].items() if shape != shapes[1][name]]


def _by_name_alone(base: nn.Module, name: str, head: Sequence[str]) -> Iterator[str]:
    """Yield a module of the head, or those below it, by names that end no name of another module
    than those of the head.
    """
    others = [other for other, _ in base.named_modules() if other not in {name, *head}]
    if not any(other.endswith(name) for other in others):
        yield name
        return
    for child, module in base.get_submodule(name).named_children():
        if any(True for _ in module.parameters()):
            yield from _by_name_alone(base, f"{name}.{child}", head)


def target_modules(base: nn.Module, names: str) -> list[str]:
    """Return the modules that get an adapter: those named, or those of the architecture.

    Parameters
    ----------
    names : str
        Separated by commas; each ends the name of a linear or convolutional module. Empty takes
        peft's choice for the architecture, or else its query and value projections; without
        attention, all linear modules, and without these all convolutions that are not grouped.
        ``all-linear`` takes all linear modules of the pretrained part. What sees or hears in a
        language model is left out of both.

    Raises
    ------
    SettingsError
        The model has no such module; the message lists the ones it has.
    """
    linear = _pretrained(base, (nn.Linear, Conv1D))
    convolutions = {
        name: module
        for name, module in _pretrained(base, (nn.Conv1d, nn.Conv2d)).items()
        if module.groups == 1
    }
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    all_linear = wanted == [ALL_LINEAR]
    chooses = all_linear or not wanted
    if chooses and any(not TOWER.search(name) for name in (*linear, *convolutions)):
        linear, convolutions = (
            {name: module for name, module in modules.items() if not TOWER.search(name)}
            for modules in (linear, convolutions)
        )
    known_modules = [*linear, *convolutions]
    if all_linear and linear:
        return _shortest(base, list(linear))

    def missing(wanted: Sequence[str]) -> list[str]:
        return [
            name
            for name in wanted
            if not any(f".{found}".endswith(f".{name}") for found in known_modules)
        ]

    architecture = getattr(getattr(base, "config", None), "model_type", "")
    known = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(architecture)
    choices = [wanted] if wanted else [*([known] if known else []), *PROJECTIONS]
    for choice in choices:
        if not missing(choice):
            return list(choice)
    if not wanted and known_modules:
        return _shortest(base, list(linear or convolutions))
    leaves = sorted({re.sub(r".*\.", "", name) for name in known_modules})
    if not leaves:
        raise SettingsError(
            f"task.model is a {type(base).__name__}, which has no linear and no convolutional "
            "module that an adapter could go to; choose another architecture"
        )
    lacking = ", ".join(map(repr, missing(wanted)))
    raise SettingsError(
        f"lora.target-modules is {names!r}, but the base model has no linear or convolutional "
        f"module {lacking}; it has {', '.join(leaves)}"
    )


def _pretrained(base: nn.Module, kinds: tuple[type[nn.Module], ...]) -> dict[str, nn.Module]:
    """Return the modules of some kinds in the pretrained part of a model, by name."""
    pretrained = getattr(base, "base_model_prefix", "")
    inside = f"{pretrained}." if hasattr(base, pretrained) else ""
    outside = [name.rpartition(".")[0] for name in class_parameters(base)]
    if isinstance(base, PreTrainedModel):
        output = base.get_output_embeddings()
        outside += [name for name, module in base.named_modules() if module is output]
    return {
        name: module
        for name, module in base.named_modules()
        if isinstance(module, kinds) and name.startswith(inside) and name not in outside
    }


def _shortest(base: nn.Module, names: Sequence[str]) -> list[str]:
    """Return names by whose ends peft finds these modules and no others: last parts of their
    names where these will do, else whole ones.
    """
    every = [name for name, _ in base.named_modules()]
    chosen = set()
    for name in names:
        leaf = name.rpartition(".")[2]
        alike = [other for other in every if f".{other}".endswith(f".{leaf}")]
        chosen.add(leaf if set(alike) <= set(names) else name)
    return sorted(chosen)
