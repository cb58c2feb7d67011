"""Every sample's gradient of its own loss: batch by batch, at one or several adapters.

Those of a batch come of one pass, or of a pass for each sample. The one pass is exact where every
trained module keeps the samples apart: its input and output have the samples in their first
dimension, or rows of theirs, sample after sample, as the windows of Swin. Whether a model does is
seen once, on a few samples: their gradients are computed both ways.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from potara_flwr.core.seeds import generator
from potara_flwr.models.adapter import Adapter, SampleGradients, groups
from potara_flwr.models.lora import LoraModel, device_of
from potara_flwr.tasks.base import Batch, Samples, Task, num_samples, take

logger = logging.getLogger(__name__)

TRIED_SAMPLES = 3
"""On which both ways are compared, or a batch if that is less: an odd number, as few sizes within a
model are."""
HELD_BYTES = 2**30
"""That what is held of a pass may take: where an adapter is too large for it, its layers are cut
into groups, and each has a pass of its own."""
SAMPLE_BYTES = 3 * 4
"""Of a parameter and a sample of a batch: its gradient at two adapters or computed both ways, and
one that is just being put together, in float32."""


@dataclass(frozen=True)
class GradientPass:
    """What forward and backward passes over the calibration samples tell about an adapter."""

    losses: Tensor
    """Loss of each sample, shape (n,), in the loss's unit."""
    gradients: SampleGradients
    batched: bool = True
    """Whether they are of one pass over several samples, or of a pass for each."""


class _MixedSamplesError(Exception):
    """A trained module does not keep the samples apart; says which and how."""


def per_sample_gradients(
    model: LoraModel, task: Task, adapter: Adapter, samples: Samples, batch_size: int = 0
) -> GradientPass:
    """Compute every sample's gradient of its own loss, ``batch_size`` samples at once (0: all), and
    hold them all, in main memory.
    """
    losses: list[Tensor] = []
    gradients: dict[str, list[Tensor]] = {name: [] for name in adapter}
    batched = True
    for (one,) in gradients_in_batches(
        model, task, [adapter], samples, batch_size or num_samples(samples)
    ):
        losses.append(one.losses.cpu())
        for name, gradient in one.gradients.items():
            gradients[name].append(gradient.cpu())
        batched &= one.batched
    joined = {name: torch.cat(parts) for name, parts in gradients.items()}
    return GradientPass(torch.cat(losses), joined, batched)


def gradients_in_batches(
    model: LoraModel,
    task: Task,
    adapters: Sequence[Adapter],
    samples: Samples,
    batch_size: int,
    names: Collection[str] | None = None,
) -> Iterator[list[GradientPass]]:
    """Yield, batch by batch, every sample's gradient of its own loss at each of some adapters.

    Where a trained module does not keep the samples apart, forward and backward passes are of one
    sample each; the log says so once, and why. Checkpoints are made where the model makes some in
    training.

    Parameters
    ----------
    adapters : sequence of dict
        With the same names, and shapes.
    batch_size : int
        Samples at once; the last batch may have fewer.
    names : collection of str, optional
        Whose gradients are wanted; by default those of all tensors.

    Yields
    ------
    list of GradientPass
        One for each adapter, where the model computes.
    """
    size = min(batch_size, num_samples(samples))
    wanted = [*adapters[0]] if names is None else names
    if size > 1 and model.keeps_samples_apart is None:
        with model.checkpoints():
            _remember(model, _reason_against(model, task, adapters[0], samples, size))
    for start in range(0, num_samples(samples), size):
        batch = task.collate(take(samples, slice(start, start + size), device_of(model.module)))
        with model.checkpoints():
            passes = [
                _of_batch(model, task, adapter, batch, wanted, size > 1) for adapter in adapters
            ]
        yield passes
        del passes  # before the next ones are computed


def _of_batch(
    model: LoraModel,
    task: Task,
    adapter: Adapter,
    batch: Batch,
    wanted: Collection[str],
    at_once: bool,
) -> GradientPass:
    if at_once and model.keeps_samples_apart:
        try:
            return _batched(model, task, adapter, batch, wanted)
        except _MixedSamplesError as error:
            _remember(model, str(error))
    return _one_at_a_time(model, task, adapter, batch, wanted)


def _remember(model: LoraModel, reason: str) -> None:
    """Remember whether a model keeps the samples apart; log the reason why it does not."""
    model.keeps_samples_apart = not reason
    if reason:
        logger.info("per-sample gradients are computed one sample at a time: %s", reason)


def _reason_against(
    model: LoraModel, task: Task, adapter: Adapter, samples: Samples, size: int
) -> str:
    """Return why gradients of several samples cannot be computed at once; empty where they can.

    They are computed both ways, for the first, the middle and the last sample, which have different
    lengths where samples have lengths. A factor that is zero would hide the gradient of the other
    one, and equal samples which one a row is of, so zeros are filled and losses weighted.
    """
    last, number = num_samples(samples) - 1, min(TRIED_SAMPLES, size)
    at = torch.tensor(sorted({round(last * i / (number - 1)) for i in range(number)}))
    batch = task.collate(take(samples, at, device_of(model.module)))
    draws = generator(0, "gradient check")
    tried = {
        name: tensor
        if tensor.any()
        else torch.empty(tensor.shape).normal_(std=0.02, generator=draws).to(tensor)
        for name, tensor in adapter.items()
    }
    for names in groups(adapter, SAMPLE_BYTES * number, HELD_BYTES):
        if reason := _difference(model, task, tried, batch, names):
            return reason
    return ""


def _difference(
    model: LoraModel, task: Task, adapter: Adapter, batch: Batch, wanted: Collection[str]
) -> str:
    """Return where the gradients that are computed both ways differ; empty where they do not."""
    weights = 1.0 + torch.arange(num_samples(batch), device=device_of(model.module))
    try:
        found = _batched(model, task, adapter, batch, wanted, weights).gradients
    except _MixedSamplesError as error:
        return str(error)
    right = _one_at_a_time(model, task, adapter, batch, wanted, weights).gradients
    small = next(model.module.parameters()).dtype in (torch.float16, torch.bfloat16)
    tolerance, floor = (0.2, 2e-3) if small else (1e-2, 1e-5)
    whole = torch.stack([gradient.norm() for gradient in right.values()]).norm()
    for name, gradient in right.items():
        distance = (found[name] - gradient).norm()
        if not distance <= tolerance * gradient.norm() + floor * whole:
            return f"those of {name} differ in a batch, whose samples it does not keep apart"
    return ""


def _one_at_a_time(
    model: LoraModel,
    task: Task,
    adapter: Adapter,
    batch: Batch,
    wanted: Collection[str],
    weights: Tensor | None = None,
) -> GradientPass:
    """Compute every sample's gradient of its own (weighted) loss by a pass of its own.

    A sample keeps the padding that it has in the batch. A tensor that a loss does not depend on
    has the gradient 0.
    """
    leaves = _leaves(model, adapter, wanted)
    losses, rows = [], []
    for i in range(num_samples(batch)):
        one = _sample_of(batch, i)
        loss = task.losses(model(leaves, one), one)
        scaled = loss if weights is None else loss * weights[i]
        rows.append(
            torch.autograd.grad(
                scaled.sum(),
                [leaves[name] for name in wanted],
                allow_unused=True,
                materialize_grads=True,
            )
        )
        losses.append(loss.detach())
    columns = zip(*rows, strict=True)
    gradients = {name: torch.stack(column) for name, column in zip(wanted, columns, strict=True)}
    return GradientPass(torch.cat(losses), gradients, batched=False)


def _leaves(model: LoraModel, adapter: Adapter, wanted: Collection[str]) -> dict[str, Tensor]:
    """Return an adapter's tensors where the model computes; gradients reach the wanted ones."""
    device, chosen = device_of(model.module), set(wanted)
    return {
        name: tensor.detach().to(device).requires_grad_(name in chosen)
        for name, tensor in adapter.items()
    }


def _sample_of(batch: Batch, i: int) -> Batch:
    """Return the rows of one sample; inputs without dimensions are as they are."""
    n = num_samples(batch)

    def rows(tensor: Tensor) -> Tensor:
        each = len(tensor) // n
        return tensor[i * each : (i + 1) * each]

    return {name: rows(tensor) if tensor.ndim else tensor for name, tensor in batch.items()}


class _Call(NamedTuple):
    """A call of a module that owns trained tensors."""

    owner: str
    args: tuple[object, ...]
    output: Tensor


def _batched(
    model: LoraModel,
    task: Task,
    adapter: Adapter,
    batch: Batch,
    wanted: Collection[str],
    weights: Tensor | None = None,
) -> GradientPass:
    """Compute every sample's gradient of its own (weighted) loss in one forward and one backward
    pass.

    The backward pass only has to reach the outputs of the modules whose tensors are trained; what
    it finds there gives each sample's gradient (:func:`_of_linear`, :func:`_of_any`). A module
    that is called several times has the sum over its calls.

    Raises
    ------
    _MixedSamplesError
        A trained module does not keep the samples in its first dimension.
    """
    leaves = _leaves(model, adapter, wanted)
    owned: dict[str, dict[str, str]] = {}
    for name in wanted:
        owner, _, leaf = model.parameters[name].rpartition(".")
        owned.setdefault(owner, {})[leaf] = name
    calls: list[_Call] = []
    handles = []
    for owner in sorted(owned):

        def record(
            _: nn.Module,
            args: tuple[object, ...],
            options: dict[str, object],
            output: object,
            owner: str = owner,
        ) -> None:
            if options or len(args) != 1 or not isinstance(output, Tensor):
                raise _MixedSamplesError(f"{owner} takes or gives more than one tensor")
            calls.append(_Call(owner, args, output))

        module = model.module.get_submodule(owner)
        handles.append(module.register_forward_hook(record, with_kwargs=True))
    try:
        losses = task.losses(model(leaves, batch), batch)
    finally:
        for handle in handles:
            handle.remove()

    called = {call.owner for call in calls}
    unseen = [name for owner in owned if owner not in called for name in owned[owner].values()]
    total = (losses if weights is None else losses * weights).sum()
    outputs = [call.output for call in calls]
    found = torch.autograd.grad(
        total, [*outputs, *(leaves[name] for name in unseen)], allow_unused=True
    )
    deltas, beside = found[: len(outputs)], found[len(outputs) :]
    for name, gradient in zip(unseen, beside, strict=True):
        if gradient is not None:
            raise _MixedSamplesError(f"{name} is used without a call of its module")

    n = num_samples(batch)
    gradients: SampleGradients = {}
    for call, delta in zip(calls, deltas, strict=True):
        if delta is None:  # the loss does not depend on what this call gave
            continue
        inputs = call.args[0]
        if not isinstance(inputs, Tensor) or not _by_sample(inputs, delta, n):
            shape = tuple(getattr(inputs, "shape", ()))
            raise _MixedSamplesError(f"{call.owner} mixes the samples: its input is {shape}")
        module = model.module.get_submodule(call.owner)
        names = owned[call.owner]
        if isinstance(module, nn.Linear):
            parts = _of_linear(inputs.detach(), delta, n, names)
        else:
            below = {
                parameter[len(call.owner) + 1 :]: leaves[name]
                for name, parameter in model.parameters.items()
                if name in leaves and parameter.startswith(f"{call.owner}.")
            }
            parts = _of_any(module, below, inputs.detach(), delta, n, list(names))
        for leaf, gradient in parts.items():
            name = names[leaf]
            gradients[name] = gradients[name] + gradient if name in gradients else gradient
    losses, device = losses.detach(), device_of(model.module)
    gradients |= {
        name: torch.zeros(n, *adapter[name].shape) for name in wanted if name not in gradients
    }
    return GradientPass(losses, {name: gradients[name].to(device) for name in wanted})


def _by_sample(inputs: Tensor, delta: Tensor, n: int) -> bool:
    """Say whether the first dimensions of a module's input and output are those of n samples."""
    fewest = 2 if inputs.is_floating_point() else 1  # ids of an embedding have no features
    return inputs.ndim >= fewest and delta.ndim >= 2 and len(inputs) % n == len(delta) % n == 0


def _of_linear(
    inputs: Tensor, delta: Tensor, n: int, names: Mapping[str, str]
) -> dict[str, Tensor]:
    """Return every sample's gradients of the weight and bias of a linear module.

    With x the input and δ the gradient at the output, both (n, tokens, features), sample i's
    gradients are Σ_t δ_it x_itᵀ for the weight and Σ_t δ_it for the bias (Goodfellow, 2015, arXiv
    1510.01799). Where a sample has k rows, the tokens of all of them are its tokens.

    Parameters
    ----------
    inputs, delta : Tensor
        Shape (k · n, …, features).
    names : mapping
        Of the trained ones among ``weight`` and ``bias``.

    Returns
    -------
    dict
        Shapes (n, out, in) and (n, out).
    """
    # (k · n, …, features) → (n, k · tokens, features); without tokens, one.
    inputs = inputs.reshape(n, -1, inputs.shape[-1])
    delta = delta.reshape(n, -1, delta.shape[-1])
    gradients = {}
    if "weight" in names:
        gradients["weight"] = torch.einsum("nto,nti->noi", delta, inputs)
    if "bias" in names:
        gradients["bias"] = delta.sum(1)
    return gradients


def _of_any(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    inputs: Tensor,
    delta: Tensor,
    n: int,
    wanted: Sequence[str],
) -> dict[str, Tensor]:
    """Return every sample's gradients of the tensors of any module, such as a convolution, a
    normalization or an embedding.

    The module is run once more on the rows of each sample alone: sample i's gradients are the
    vector-Jacobian product of its output with the rows δ_i of the gradient at the output, which is
    the chain rule.

    Parameters
    ----------
    tensors : mapping
        Of the adapter, by their names below the module.
    inputs, delta : Tensor
        The module's input and the gradient at its output; first dimension k · n each.
    wanted : sequence of str
        The module's own tensors.

    Returns
    -------
    dict
        Name → gradients, shape (n, *shape of the tensor).

    Raises
    ------
    _MixedSamplesError
        The output for a sample alone has another shape.
    """
    rows = []
    for x, d in zip(inputs.tensor_split(n), delta.tensor_split(n), strict=True):
        output = functional_call(module, dict(tensors), (x,), tie_weights=False)
        if output.shape != d.shape:
            raise _MixedSamplesError(f"a {type(module).__name__} mixes the samples")
        leaves = [tensors[name] for name in wanted]
        rows.append(
            torch.autograd.grad(output, leaves, d, allow_unused=True, materialize_grads=True)
        )
    return {
        name: torch.stack(column)
        for name, column in zip(wanted, zip(*rows, strict=True), strict=True)
    }
