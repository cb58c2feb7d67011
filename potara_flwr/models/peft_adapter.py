"""LoRA adapters from disk, whoever trained them: checked, and brought to one scaling and rank."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors import SafetensorError
from torch import Tensor

from potara_flwr.core.errors import SettingsError
from potara_flwr.models.adapter import Adapter, kind_of, lora_pairs
from potara_flwr.models.lora import load_adapter
from potara_flwr.models.ranks import PREFIX, layer_of, scaling_of

CONFIG_FILE = "adapter_config.json"
OTHER_KINDS = (
    "use_dora", "use_qalora", "use_bdlora", "lora_bias", "kasa_config", "monteclora_config",
    "arrow_config", "alora_invocation_tokens", "layer_replication",
)  # fmt: skip
"""Options of peft's LoRA with which an update is not s·B·A."""
CHANGE_BASE = ("pissa", "olora", "corda", "loftq")
"""Ways to begin a LoRA (``init_lora_weights``) that take something out of the base model."""


@dataclass(frozen=True)
class PeftAdapter:
    """An adapter of peft's as it lies in a folder."""

    folder: Path
    base_model: str
    """Name of its base model."""
    tensors: Adapter
    scaling: dict[str, float]
    """Name of a layer's A → the factor s of its update ΔW = s·B·A."""

    @property
    def layers(self) -> tuple[str, ...]:
        """Names, in the base model, of the modules that have an update, in order."""
        return tuple(layer_of(a) for a, _ in lora_pairs(self.tensors))

    @property
    def head(self) -> Adapter:
        """The tensors of the modules that were trained in full."""
        return {name: t for name, t in self.tensors.items() if kind_of(name) == "head"}

    @property
    def rank(self) -> int:
        """The highest rank of any layer."""
        return max(self.ranks.values())

    @property
    def ranks(self) -> dict[str, int]:
        """Name of a layer's A → its rank."""
        return {a: self.tensors[a].shape[0] for a, _ in lora_pairs(self.tensors)}

    def scaled(self, scaling: Mapping[str, float]) -> PeftAdapter:
        """Return the same updates with other scalings, by the names of As: the difference goes
        into B.
        """
        factors = {b: self.scaling[a] / scaling[a] for a, b in lora_pairs(self.tensors)}
        tensors = {
            name: tensor * factors[name] if factors.get(name, 1.0) != 1.0 else tensor
            for name, tensor in self.tensors.items()
        }
        return replace(self, tensors=tensors, scaling={a: scaling[a] for a in self.scaling})

    def evened(self) -> tuple[Adapter, dict[str, Any]]:
        """Return the same updates with one rank and one scaling, and what a configuration says of
        these.
        """
        scaling = next(iter(self.scaling.values()))
        even = self.scaled(dict.fromkeys(self.scaling, scaling)).widened(self.tensors, self.rank)
        told = {"r": self.rank, "lora_alpha": scaling * self.rank, "use_rslora": False}
        return even.tensors, told | {"rank_pattern": {}, "alpha_pattern": {}}

    def widened(self, like: Adapter, rank: int) -> PeftAdapter:
        """Return the same updates with the layers of ``like`` and one rank: what lacks is zero.

        A layer without an update takes the A of ``like``, with B = 0, so that a merge of factors
        is exact there.
        """
        tensors = dict(self.tensors)
        for a, b in lora_pairs(like):
            if a not in tensors:
                tensors[a], tensors[b] = like[a], torch.zeros_like(like[b])
            tensors[a] = _padded(tensors[a], rank, dim=0)
            tensors[b] = _padded(tensors[b], rank, dim=1)
        return replace(self, tensors=tensors)


def _padded(tensor: Tensor, rank: int, dim: int) -> Tensor:
    """Fill up with zeros to a rank."""
    shape = list(tensor.shape)
    shape[dim] = rank - shape[dim]
    return torch.cat([tensor, tensor.new_zeros(shape)], dim) if shape[dim] else tensor


def read_peft_adapter(folder: Path) -> PeftAdapter:
    """Read an adapter folder of peft's (adapter_config.json, adapter_model.safetensors).

    Raises
    ------
    SettingsError
        There is none, it is damaged, or it is no LoRA whose update is s·B·A (DoRA, trained
        biases, embeddings); says what to do.
    """
    config = _read_config(folder)
    try:
        tensors = load_adapter(folder)
    except FileNotFoundError:
        raise SettingsError(
            f"{folder} has no adapter_model.safetensors; save the adapter with "
            "safe_serialization=True (peft's default)"
        ) from None
    except (OSError, SafetensorError) as error:
        raise SettingsError(f"{folder}: adapter_model.safetensors is damaged: {error}") from None
    pairs = lora_pairs(tensors)
    strange = [
        name
        for name in tensors
        if not name.startswith(PREFIX)
        or (kind_of(name) == "head" and ".lora_" in name)
        or (kind_of(name) == "B" and name.replace("lora_B", "lora_A") not in tensors)
    ]
    if strange or not pairs or any(b not in tensors for _, b in pairs):
        what = f"there is {strange[0]} in it" if strange else "a factor lacks"
        raise SettingsError(f"{folder} is no LoRA of A and B alone: {what}")
    scaling = {a: scaling_of(config, layer_of(a), tensors[a].shape[0]) for a, _ in pairs}
    floats = {name: tensor.float() for name, tensor in tensors.items()}
    return PeftAdapter(folder, config.base_model_name_or_path or "", floats, scaling)


def _read_config(folder: Path) -> LoraConfig:
    try:
        told: dict[str, Any] = json.loads((folder / CONFIG_FILE).read_text())
        kind = told.get("peft_type")
        config = LoraConfig.from_peft_type(**told)
    except OSError as error:
        raise SettingsError(
            f"{folder} is no adapter: {CONFIG_FILE} cannot be read ({error.strerror})"
        ) from None
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise SettingsError(f"{folder}: {CONFIG_FILE} is damaged ({error})") from None
    if not isinstance(config, LoraConfig):
        raise SettingsError(f"{folder} is no LoRA but {kind}; only LoRA adapters can be merged")
    if other := [name for name in OTHER_KINDS if getattr(config, name, None)]:
        raise SettingsError(
            f"{folder} was trained with {other[0]}, whose update is not s·B·A; fold it into its "
            "base model (merge_and_unload) instead"
        )
    if str(config.init_lora_weights).lower().startswith(CHANGE_BASE):
        raise SettingsError(
            f"{folder} was begun by {config.init_lora_weights}, which changes its base model; "
            "convert it to a plain LoRA (path_initial_model_for_weight_conversion of peft's "
            "save_pretrained)"
        )
    if config.bias != "none":
        raise SettingsError(
            f"{folder} has trained biases (bias={config.bias!r}), which are no part of a merge"
        )
    return config
