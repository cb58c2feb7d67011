"""Every sample's gradient of its own loss, in one batched pass."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from potara_flwr.core.errors import EstimationError
from potara_flwr.models.adapter import Adapter, SampleGradients
from potara_flwr.models.lora import LoraModel, device_of
from potara_flwr.tasks.base import Samples, Task, num_samples, take


@dataclass(frozen=True)
class GradientPass:
    """What one forward and backward pass over the calibration samples tells about an adapter."""

    losses: Tensor
    """Loss of each sample, shape (n,), in the loss's unit."""
    gradients: SampleGradients


def per_sample_gradients(
    model: LoraModel, task: Task, adapter: Adapter, samples: Samples, batch_size: int = 0
) -> GradientPass:
    """Compute every sample's gradient of its own loss, ``batch_size`` samples at once (0: all).

    Raises
    ------
    EstimationError
        A trained module is not linear, or does not keep the samples in its first dimension.
    """
    n = num_samples(samples)
    size = batch_size or n
    passes = [
        _gradient_pass(model, task, adapter, take(samples, slice(start, start + size)))
        for start in range(0, n, size)
    ]
    if len(passes) == 1:
        return passes[0]
    return GradientPass(
        torch.cat([one.losses for one in passes]),
        {name: torch.cat([one.gradients[name] for one in passes]) for name in adapter},
    )


def _gradient_pass(
    model: LoraModel, task: Task, adapter: Adapter, samples: Samples
) -> GradientPass:
    """Compute every sample's gradient of its own loss in one forward and one backward pass.

    The trained tensors of an adapter are weights and biases of linear modules. With x the input
    and δ the gradient at the output of such a module, both (n, tokens, features), sample i's
    gradients are Σ_t δ_it x_itᵀ for the weight and Σ_t δ_it for the bias, so the backward pass only
    has to reach the outputs (Goodfellow, 2015, arXiv 1510.01799). Where a sample has k rows, the
    tokens of all of them are its tokens.
    """
    device = device_of(model.module)
    samples = task.collate(take(samples, slice(None), device))
    leaves = {name: tensor.detach().to(device).requires_grad_() for name, tensor in adapter.items()}
    owners = {model.parameters[name].rpartition(".")[0] for name in leaves}
    calls: list[tuple[str, Tensor, Tensor]] = []
    handles = []
    for owner in sorted(owners):
        module = model.module.get_submodule(owner)
        if not isinstance(module, nn.Linear):
            raise EstimationError(
                f"per-sample gradients need linear modules; {owner} is a {type(module).__name__}"
            )

        def record(_: nn.Module, args: tuple[Tensor], output: Tensor, owner: str = owner) -> None:
            calls.append((owner, args[0].detach(), output))

        handles.append(module.register_forward_hook(record))
    try:
        losses = task.losses(model(leaves, samples), samples)
    finally:
        for handle in handles:
            handle.remove()
    deltas = torch.autograd.grad(losses.sum(), [output for _, _, output in calls])

    n = num_samples(samples)
    rows = next(
        len(at) for name, at in samples.items() if at.ndim and not name.startswith("labels")
    )
    names = {parameter: name for name, parameter in model.parameters.items() if name in leaves}
    gradients: SampleGradients = {}
    for (owner, inputs, _), delta in zip(calls, deltas, strict=True):
        if inputs.shape[0] != rows:
            raise EstimationError(f"{owner} mixes the samples: its input is {tuple(inputs.shape)}")
        # (k · n, …, features) → (n, k · tokens, features); without tokens, one.
        inputs = inputs.reshape(n, -1, inputs.shape[-1])
        delta = delta.reshape(n, -1, delta.shape[-1])
        if name := names.get(f"{owner}.weight"):
            gradient = torch.einsum("nto,nti->noi", delta, inputs)
            gradients[name] = gradients[name] + gradient if name in gradients else gradient
        if name := names.get(f"{owner}.bias"):
            gradient = delta.sum(1)
            gradients[name] = gradients[name] + gradient if name in gradients else gradient
    return GradientPass(losses.detach().cpu(), {name: gradients[name].cpu() for name in adapter})
