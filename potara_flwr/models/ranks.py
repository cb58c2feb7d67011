"""Rank and scaling of every adapted layer: ΔW = s·B·A, layer by layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from peft import LoraConfig
from peft.utils.other import get_pattern_key

from potara_flwr.core.errors import SettingsError
from potara_flwr.models.adapter import Adapter, lora_pairs
from potara_flwr.settings.groups import LoraSettings

PREFIX = "base_model.model."
"""Of every tensor's name in an adapter of peft's."""


def layer_of(name: str) -> str:
    """Return the name, in the base model, of the module whose A has this name."""
    return name.removeprefix(PREFIX).rpartition(".lora_A")[0]


def check_patterns(lora: LoraSettings, layers: Sequence[str]) -> None:
    """Check that what has a rank or alpha of its own is there: peft would leave it out in silence.

    Parameters
    ----------
    layers : sequence of str
        Names, in the base model, of the adapted modules.

    Raises
    ------
    SettingsError
        A name of a pattern is that of no adapted module; the message lists the ones that are.
    """
    for setting, pattern in (("rank", lora.module_ranks), ("alpha", lora.module_alphas)):
        for key in pattern:
            if all(get_pattern_key([key], layer) == layer != key for layer in layers):
                ends = sorted({layer.rpartition(".")[2] for layer in layers})
                raise SettingsError(
                    f"lora.{setting}-pattern names {key!r}, which no adapted module is called; "
                    f"they end with {', '.join(ends)}"
                )


def scaling_of(config: LoraConfig, layer: str, rank: int | None = None) -> float:
    """Return the factor s of a layer's update ΔW = s·B·A: alpha / r (arXiv 2106.09685, section
    4.1), or alpha / √r (rsLoRA: arXiv 2312.03732, theorem 3.2).

    Parameters
    ----------
    rank : int, optional
        Of the layer; by default the one that the configuration says.
    """
    r = _of(config.rank_pattern, layer, config.r) if rank is None else rank
    return float(alpha_of(config, layer) / (r**0.5 if config.use_rslora else r))


def alpha_of(config: LoraConfig, layer: str) -> float:
    """Return alpha of a layer."""
    return _of(config.alpha_pattern, layer, config.lora_alpha)


def _of(pattern: Mapping[str, Any] | None, layer: str, otherwise: float) -> float:
    """Return what a pattern of peft's says of a layer."""
    known = pattern or {}
    value: float = known.get(get_pattern_key(list(known), layer), otherwise)
    return value


def told_ranks(config: LoraConfig, adapter: Adapter) -> dict[str, Any]:
    """Return what a configuration has to say of ranks and alphas so that peft runs an adapter as it
    is run here: ranks are those of its tensors, and scalings stay what they are. An exact merge has
    twice the rank of its parts (peft's checkpoint format,
    https://huggingface.co/docs/peft/developer_guides/checkpoint).
    """
    ranks = {layer_of(a): adapter[a].shape[0] for a, _ in lora_pairs(adapter)}
    alphas = {
        layer: alpha_of(config, layer) * scaling_of(config, layer) / scaling_of(config, layer, rank)
        for layer, rank in ranks.items()
    }
    rank = Counter(ranks.values()).most_common(1)[0][0]
    alpha = Counter(alphas.values()).most_common(1)[0][0]
    return {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {f"^{layer}": at for layer, at in ranks.items() if at != rank},
        "alpha_pattern": {f"^{layer}": at for layer, at in alphas.items() if at != alpha},
    }
