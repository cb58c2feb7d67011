"""A LoRA adapter as tensors: create, run, save and load as a peft folder.

An adapter is a plain dictionary of tensors under the names peft stores on disk. The base model is
loaded once and never changed: an adapter is put into it for the length of one call, so adapters of
any rank run on the same model, and nothing of one client is left for the next.
"""

from __future__ import annotations

import copy
import inspect
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from peft.utils import ModulesToSaveWrapper
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.func import functional_call
from transformers.modeling_layers import GradientCheckpointingLayer

from potara_flwr.core.errors import SettingsError
from potara_flwr.core.seeds import derive_seed, generator
from potara_flwr.models.adapter import Adapter, first_components, kind_of, lora_pairs
from potara_flwr.models.architecture import class_parameters, find_head, target_modules
from potara_flwr.models.frozen import keep_statistics
from potara_flwr.models.generation import continue_prompts, continue_unpadded
from potara_flwr.models.padding import PaddingSide, at_the_front, leading_padding, put_back
from potara_flwr.models.ranks import check_patterns, layer_of, scaling_of, told_ranks
from potara_flwr.settings.groups import LoraSettings

ADAPTER_NAME = "default"
POSITIONS, KEPT = OPTIONAL = ("position_ids", "logits_to_keep")
"""Model inputs that a language model may do without: positions, where it counts them itself
(:mod:`potara_flwr.models.padding`), and for how many of the last columns it makes logits, which are
cut afterwards.
"""
BUFFERS = "buffers"
"""Of the metadata of an adapter's file: names of tensors that are none of the adapter."""
_IN_HEAD = f".modules_to_save.{ADAPTER_NAME}"
"""What peft puts into the name of a parameter of the head."""


class LoraModel:
    """A frozen base model that runs with any adapter of one LoRA configuration.

    Parameters
    ----------
    base : nn.Module
        The pretrained model; wrapped by peft and owned by this object from here on.
    lora : LoraSettings
        Ranks, alphas, dropout and target modules.
    head_modules : tuple of str, optional
        Modules trained in full next to the LoRA factors; by default all that the base model has
        next to its pretrained part.
    seed : int
        Decides the initial adapter.
    device : torch.device, optional
        Where the model computes; by default where ``base`` is.
    padding_side : str, optional
        Where ``base`` takes the padding that precedes a text in a batch: ``right`` moves it behind
        the text before every call, and what the call gives back again.

    Raises
    ------
    SettingsError
        A target module, or one with a rank or alpha of its own, is not in the model; the message
        lists the ones that are.
    """

    def __init__(
        self,
        base: nn.Module,
        lora: LoraSettings,
        head_modules: tuple[str, ...] | None,
        seed: int,
        device: torch.device | None = None,
        padding_side: PaddingSide = "left",
    ) -> None:
        self.padding_side = padding_side
        self._taken = frozenset(inspect.signature(base.forward).parameters)
        if head_modules is None:
            head_modules = find_head(base)
        self.dtype = next(at.dtype for at in base.parameters() if at.is_floating_point())
        """Type of the base model's weights."""
        targets = target_modules(base, lora.target_modules)
        self.config = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,  # type: ignore[arg-type]  # peft takes fractions too
            rank_pattern=lora.module_ranks,
            alpha_pattern=lora.module_alphas,
            lora_dropout=lora.dropout,
            use_rslora=lora.rslora,
            target_modules=targets,
            modules_to_save=list(head_modules),
        )
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            # peft 0.21 asks for a property that transformers 5.23 has renamed.
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
            warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False")
            warnings.filterwarnings("ignore", message=".*_pattern keys did not match")  # refused
            torch.manual_seed(derive_seed(seed, "initial adapter"))
            self.module = get_peft_model(base, self.config, adapter_name=ADAPTER_NAME)
        self.module.eval()
        keep_statistics(self.module)
        self._keep_head_in_float32()
        if device is not None:
            self.module.to(device)
        stored = get_peft_model_state_dict(self.module, adapter_name=ADAPTER_NAME)
        by_address = {tensor.data_ptr(): name for name, tensor in stored.items()}
        self.parameters: dict[str, str] = {}
        """The adapter's tensor name → the name of the parameter it fills in ``module``."""
        for name, parameter in self.module.named_parameters():
            if parameter.requires_grad:
                self.parameters[by_address[parameter.data_ptr()]] = name
                parameter.requires_grad_(False)
        self.initial: Adapter = {
            name: stored[name].detach().cpu().clone() for name in self.parameters
        }
        """The initial adapter, the same on every client and the server."""
        check_patterns(lora, [layer_of(a) for a, _ in lora_pairs(self.initial)])
        self.buffers: Adapter = {
            name: tensor.detach().cpu().clone()
            for name, tensor in stored.items()
            if name not in self.parameters
        }
        """What a head has besides, such as batch norm's statistics: never changed or sent, but part
        of what peft loads.
        """
        self._devices = {
            name: self.module.get_parameter(parameter).device
            for name, parameter in self.parameters.items()
        }
        self._held: dict[str, Tensor] = {}
        """The tensors of the last call, for a checkpoint in the midst of it."""
        self._posing: list[nn.Module] = []
        """Layers that seem to be in training mode, but compute as in evaluation mode."""
        self.keeps_samples_apart: bool | None = None
        """Whether the gradients of several samples can be computed in one pass; known from the
        first such pass on (:mod:`potara_flwr.training.gradients`).
        """

    def __call__(self, adapter: Mapping[str, Tensor], samples: Mapping[str, Tensor]) -> Tensor:
        """Return the logits of the base model with ``adapter``, shape (n, …)."""
        if self.padding_side == "right":
            leading = leading_padding(samples["attention_mask"])
            kept, columns = int(samples[KEPT]), int(samples[KEPT] + leading.max())
            front = at_the_front({**samples, KEPT: torch.tensor(columns)}, leading)
            return put_back(self._logits(adapter, front), leading, kept)
        return self._logits(adapter, samples)

    def _logits(self, adapter: Mapping[str, Tensor], samples: Mapping[str, Tensor]) -> Tensor:
        outputs = self._outputs(adapter, samples)
        # PP-LCNet's classifier calls its logits by another name.
        logits: Tensor = outputs.logits if hasattr(outputs, "logits") else outputs.last_hidden_state
        if KEPT in samples and KEPT not in self._taken:
            logits = logits[:, -int(samples[KEPT]) :]
        return logits

    def hidden_states(self, adapter: Mapping[str, Tensor], samples: Mapping[str, Tensor]) -> Tensor:
        """Return the last layer's hidden states, shape (n, tokens, width)."""
        if self.padding_side == "right":
            leading = leading_padding(samples["attention_mask"])
            found = self._states(adapter, at_the_front(dict(samples), leading))
            return put_back(found, leading, found.shape[1])
        return self._states(adapter, samples)

    def _states(self, adapter: Mapping[str, Tensor], samples: Mapping[str, Tensor]) -> Tensor:
        outputs = self._outputs(adapter, samples, output_hidden_states=True)
        states: Tensor = outputs.hidden_states[-1]
        return states

    def _outputs(
        self, adapter: Mapping[str, Tensor], samples: Mapping[str, Tensor], **options: bool
    ) -> Any:
        tensors = self._parameters_of(adapter)
        self._held.clear()
        self._held.update(tensors)
        inputs = {
            name: self._input(tensor)
            for name, tensor in samples.items()
            if not name.startswith("labels") and (name in self._taken or name not in OPTIONAL)
        }
        # No parameter of an adapter is tied; looking for ties would cost 7 % of a training step.
        return functional_call(self.module, tensors, kwargs=inputs | options, tie_weights=False)

    def _input(self, tensor: Tensor) -> Tensor | float:
        """Return a model input in the model's type; a tensor without dimensions is a number."""
        if tensor.ndim == 0:
            return tensor.item()
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor

    def _parameters_of(self, adapter: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return an adapter under the names of the parameters in ``module``."""
        # On several GPUs a tensor belongs where its layer is; elsewhere this moves nothing.
        return {
            self.parameters[name]: tensor.to(self._devices[name])
            for name, tensor in adapter.items()
        }

    def generate(
        self,
        adapter: Mapping[str, Tensor],
        samples: Mapping[str, Tensor],
        max_new_tokens: int,
        stop: Sequence[int],
    ) -> Tensor:
        """Continue prompts, see :func:`~potara_flwr.models.generation.continue_prompts`."""
        if self.padding_side == "right":

            def following(ids: Tensor) -> Tensor:
                return self._logits(adapter, {"input_ids": ids, KEPT: torch.tensor(1)})[:, -1]

            return continue_unpadded(following, samples, max_new_tokens, stop)
        parameters = self._parameters_of(adapter)
        return continue_prompts(self.module, parameters, samples, max_new_tokens, stop)

    def checkpoint_gradients(self) -> None:
        """Compute activations anew in the backward pass instead of keeping them.

        By then ``functional_call`` has taken the adapter out of the model again, so each
        checkpoint remembers the tensors that it ran with and puts them back for its second run.

        Raises
        ------
        SettingsError
            The base model does not offer it.
        """

        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            again = _holding(self.module, dict(self._held), self._posing)
            return _in_mode(self._posing, False), again

        base: Any = self.module.get_base_model()
        base.config.use_cache = False  # kept keys and values and checkpoints exclude each other
        with warnings.catch_warnings():
            # The newer transformers call it activation_checkpointing_enable, the older do not.
            warnings.filterwarnings("ignore", message=".*gradient_checkpointing_enable.*")
            try:
                base.gradient_checkpointing_enable(
                    gradient_checkpointing_kwargs={"use_reentrant": False, "context_fn": contexts}
                )
            except ValueError as error:
                raise SettingsError(f"model.gradient-checkpointing: {error}") from None

    @contextmanager
    def checkpoints(self) -> Iterator[None]:
        """Compute activations anew in evaluation mode too, where :meth:`checkpoint_gradients` has
        that done: transformers looks whether a layer is in training mode. Dropout stays off.
        """
        layers = (
            module
            for module in self.module.modules()
            if isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing
        )
        self._posing[:] = [layer for layer in layers if not layer.training]
        try:
            with _in_mode(self._posing, True):
                yield
        finally:
            self._posing.clear()

    def with_classes(self, num_classes: int, seed: int) -> LoraModel:
        """Return the same model, sharing its memory, whose initial head has other classes.

        What depends on the number of classes is made anew from the seed, as transformers makes it:
        normal weights with the model's ``initializer_range``, no bias.
        """
        base: Any = self.module.get_base_model()
        of_classes = set(class_parameters(base))
        last = [
            name
            for name, parameter in self.parameters.items()
            if parameter.removeprefix("base_model.model.").replace(_IN_HEAD, "") in of_classes
        ]
        if self.initial[last[0]].shape[0] == num_classes:
            return self
        std = getattr(base.config, "initializer_range", 0.02)
        draws = generator(seed, "task head", num_classes)
        other = copy.copy(self)
        other.initial = dict(self.initial)
        for name in last:
            shape = (num_classes, *self.initial[name].shape[1:])
            other.initial[name] = torch.zeros(shape)
            if len(shape) > 1:
                other.initial[name].normal_(std=std, generator=draws)
        return other

    def with_rank(self, rank: int) -> LoraModel:
        """Return the same model, sharing its memory, whose initial adapter has the first ``rank``
        components alone. The scaling of an update stays that of the configuration.
        """
        other = copy.copy(self)
        other.initial = first_components(self.initial, rank)
        return other

    def _keep_head_in_float32(self) -> None:
        """Let a head take the activations of a base model of a smaller type."""

        def upcast(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(arg.float() if isinstance(arg, Tensor) else arg for arg in args)

        for module in self.module.modules():
            if isinstance(module, ModulesToSaveWrapper):
                head = module.modules_to_save[ADAPTER_NAME]
                if any(parameter.dtype != torch.float32 for parameter in head.parameters()):
                    head.float().register_forward_pre_hook(upcast)

    @property
    def head_modules(self) -> list[str]:
        """Names, in the base model, of the modules that are trained in full."""
        prefix = "base_model.model."
        return [
            name.removeprefix(prefix)
            for name, module in self.module.named_modules()
            if isinstance(module, ModulesToSaveWrapper)
        ]

    @property
    def scaling(self) -> dict[str, float]:
        """Name of a layer's A → the factor s of its update ΔW = s·B·A."""
        return {a: scaling_of(self.config, layer_of(a)) for a, _ in lora_pairs(self.initial)}


def save_adapter(
    folder: Path,
    adapter: Adapter,
    config: LoraConfig,
    base_model: str,
    buffers: Mapping[str, Tensor] = MappingProxyType({}),
    task_type: str | None = None,
) -> None:
    """Write an adapter, and the buffers of its head, as a folder that
    ``PeftModel.from_pretrained`` loads.

    Parameters
    ----------
    base_model : str
        Name of the base model, as who loads the adapter knows it.
    task_type : str, optional
        peft's name of the task, for one that it has a class for (``peft.TaskType``).
    """
    written: dict[str, Any] = config.to_dict() | {
        **told_ranks(config, adapter),
        "base_model_name_or_path": base_model,
        "task_type": task_type,
        "inference_mode": True,
    }
    with_head = any(kind_of(name) == "head" for name in adapter)
    if not with_head:
        written["modules_to_save"] = None
    folder.mkdir(parents=True, exist_ok=True)
    saved = LoraConfig(**written)
    # peft makes it a set, which has no order of its own; a list gives the same file every time.
    saved.target_modules = sorted(config.target_modules or [])
    saved.save_pretrained(str(folder))
    whole = {**adapter, **buffers} if with_head else adapter
    tensors = {name: tensor.detach().contiguous() for name, tensor in whole.items()}
    # Not save_file, whose files only their owner can read, whatever the umask says.
    metadata = {"format": "pt"} | (
        {BUFFERS: json.dumps([*buffers])} if with_head and buffers else {}
    )
    (folder / "adapter_model.safetensors").write_bytes(save(tensors, metadata))


def load_adapter(folder: Path) -> Adapter:
    """Read the tensors of an adapter folder, without the buffers of its head."""
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        buffers = json.loads((file.metadata() or {}).get(BUFFERS, "[]"))
        names = file.keys()
        return {name: file.get_tensor(name) for name in names if name not in buffers}


def device_of(module: nn.Module) -> torch.device:
    """Return the device that a model takes its inputs on."""
    return next(module.parameters()).device


@contextmanager
def _in_mode(layers: Sequence[nn.Module], training: bool) -> Iterator[None]:
    """Put layers, but not what is in them, in training or evaluation mode for a while."""
    for layer in layers:
        layer.training = training
    try:
        yield
    finally:
        for layer in layers:
            layer.training = not training


@contextmanager
def _holding(
    module: nn.Module, tensors: Mapping[str, Tensor], posing: Sequence[nn.Module]
) -> Iterator[None]:
    """Put tensors in the place of parameters for a while, and layers in evaluation mode."""
    owners = [
        (module.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], tensor)
        for name, tensor in tensors.items()
    ]
    before = [owner._parameters[leaf] for owner, leaf, _ in owners]
    try:
        for owner, leaf, tensor in owners:
            owner._parameters[leaf] = tensor  # type: ignore[assignment]
        with _in_mode(posing, False):
            yield
    finally:
        for (owner, leaf, _), parameter in zip(owners, before, strict=True):
            owner._parameters[leaf] = parameter
