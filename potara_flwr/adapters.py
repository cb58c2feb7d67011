"""A LoRA adapter as tensors: create, run, save and load as a peft folder.

An adapter is a plain dictionary of tensors under the names peft stores on disk. The base model is
loaded once and never changed: an adapter is put into it for the length of one call, so adapters of
any rank run on the same model, and nothing of one client is left for the next.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.func import functional_call

from potara_flwr.config import LoraSettings
from potara_flwr.errors import SettingsError
from potara_flwr.seeds import derive_seed

Adapter = dict[str, Tensor]
"""peft's name → tensor: ``….lora_A.weight`` (r × in), ``….lora_B.weight`` (out × r), the head."""

ADAPTER_NAME = "default"


Kind = Literal["A", "B", "head"]


def kind_of(name: str) -> Kind:
    """Return what an adapter's tensor is: the factor A, the factor B, or a part of the head."""
    if "lora_A" in name:
        return "A"
    return "B" if "lora_B" in name else "head"


def lora_pairs(adapter: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    """Return the names of the (A, B) factors of every adapted layer."""
    return [(name, name.replace("lora_A", "lora_B")) for name in adapter if kind_of(name) == "A"]


class AdapterRunner(Protocol):
    """A model that runs with whatever tensors it is handed at each call."""

    @property
    def module(self) -> nn.Module:
        """Where dropout is turned on and off."""

    def __call__(self, adapter: Mapping[str, Tensor], samples: Mapping[str, Tensor]) -> Tensor:
        """Return the logits, shape (n, …)."""


class LoraModel:
    """A frozen base model that runs with any adapter of one LoRA configuration.

    Parameters
    ----------
    base : nn.Module
        The pretrained model; wrapped by peft and owned by this object from here on.
    lora : LoraSettings
        Rank, alpha, dropout and target modules.
    head_modules : tuple of str
        Modules trained in full next to the LoRA factors.
    seed : int
        Decides the initial adapter.

    Raises
    ------
    SettingsError
        A target module is not in the model; the message lists the ones that are.
    """

    def __init__(
        self, base: nn.Module, lora: LoraSettings, head_modules: tuple[str, ...], seed: int
    ) -> None:
        targets = _target_modules(base, lora.target_modules)
        self.config = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,  # type: ignore[arg-type]  # peft takes fractions too
            lora_dropout=lora.dropout,
            target_modules=targets,
            modules_to_save=list(head_modules),
        )
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            # peft 0.21 asks for a property that transformers 5.23 has renamed.
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
            torch.manual_seed(derive_seed(seed, "initial adapter"))
            self.module = get_peft_model(base, self.config, adapter_name=ADAPTER_NAME)
        self.module.eval()
        stored = get_peft_model_state_dict(self.module, adapter_name=ADAPTER_NAME)
        by_address = {tensor.data_ptr(): name for name, tensor in stored.items()}
        self.parameters: dict[str, str] = {}
        """The adapter's tensor name → the name of the parameter it fills in ``module``."""
        for name, parameter in self.module.named_parameters():
            if parameter.requires_grad:
                self.parameters[by_address[parameter.data_ptr()]] = name
                parameter.requires_grad_(False)
        self.initial: Adapter = {name: stored[name].detach().clone() for name in self.parameters}
        """The initial adapter, the same on every client and the server."""

    def __call__(self, adapter: Mapping[str, Tensor], samples: Mapping[str, Tensor]) -> Tensor:
        """Return the logits of the base model with ``adapter``, shape (n, …)."""
        logits: Tensor = self._outputs(adapter, samples).logits
        return logits

    def hidden_states(self, adapter: Mapping[str, Tensor], samples: Mapping[str, Tensor]) -> Tensor:
        """Return the last layer's hidden states, shape (n, tokens, width)."""
        outputs = self._outputs(adapter, samples, output_hidden_states=True)
        states: Tensor = outputs.hidden_states[-1]
        return states

    def _outputs(
        self, adapter: Mapping[str, Tensor], samples: Mapping[str, Tensor], **options: bool
    ) -> Any:
        tensors = {self.parameters[name]: tensor for name, tensor in adapter.items()}
        inputs = {name: tensor for name, tensor in samples.items() if name != "labels"}
        # No parameter of an adapter is tied; looking for ties would cost 7 % of a training step.
        return functional_call(self.module, tensors, kwargs=inputs | options, tie_weights=False)

    @property
    def scaling(self) -> float:
        """The factor s of the update ΔW = s·B·A."""
        return float(self.config.lora_alpha) / self.config.r


def save_adapter(folder: Path, adapter: Adapter, config: LoraConfig, base_model: str) -> None:
    """Write an adapter as a folder that ``PeftModel.from_pretrained`` loads.

    The rank is read off the tensors, and alpha follows it so that the scaling stays the same: an
    exact merge has twice the rank of its parts (peft's checkpoint format,
    https://huggingface.co/docs/peft/developer_guides/checkpoint).
    """
    rank = adapter[lora_pairs(adapter)[0][0]].shape[0]
    written: dict[str, Any] = config.to_dict() | {
        "r": rank,
        "lora_alpha": config.lora_alpha * rank / config.r,
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        # Sets have no order of their own; a sorted list gives the same file every time.
        "target_modules": sorted(config.target_modules or []),
    }
    folder.mkdir(parents=True, exist_ok=True)
    LoraConfig(**written).save_pretrained(str(folder))
    tensors = {name: tensor.detach().contiguous() for name, tensor in adapter.items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def load_adapter(folder: Path) -> Adapter:
    """Read the tensors of an adapter folder."""
    return load_file(folder / "adapter_model.safetensors")


def _target_modules(base: nn.Module, names: str) -> list[str]:
    """Split the comma-separated names and check that each ends the name of a linear module."""
    linear = {name for name, module in base.named_modules() if isinstance(module, nn.Linear)}
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    missing = [
        name for name in wanted if not any(f".{found}".endswith(f".{name}") for found in linear)
    ]
    if missing or not wanted:
        leaves = sorted({re.sub(r".*\.", "", name) for name in linear})
        raise SettingsError(
            f"lora.target-modules is {names!r}, but the base model has no linear module "
            f"{', '.join(map(repr, missing)) or 'of an empty name'}; it has {', '.join(leaves)}"
        )
    return wanted
