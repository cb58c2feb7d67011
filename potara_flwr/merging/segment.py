"""The two merge spaces: every merge is a point on a segment between a client's two adapters.

In ``factors`` (the paper) the segment runs between the factors themselves: A and B are averaged
apart, which adds cross terms to the update. In ``delta`` it runs between the updates ΔW = s·B·A:
with A = [A_f; A_l] and B = [λ B_f, (1 − λ) B_l] the merge has rank 2r, and its update is exactly
λ ΔW_f + (1 − λ) ΔW_l. Both are straight lines in the tensors that are merged, so the same
arithmetic serves both. The task head is averaged as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from potara_flwr.models.adapter import Adapter, lora_pairs

Space = Literal["factors", "delta"]
End = Literal["federated", "local"]
ENDS: tuple[End, End] = ("federated", "local")
Weight = float | Mapping[str, Tensor]
"""The mixing weight λ on the federated adapter: one number, or one per coordinate."""


@dataclass(frozen=True)
class Segment:
    """The segment from the local (λ = 0) to the federated adapter (λ = 1) in one merge space."""

    federated: Adapter
    local: Adapter
    space: Space
    federated_end: Adapter
    local_end: Adapter

    def at(self, weight: Weight) -> Adapter:
        """Return the merge at λ. λ = 0 and λ = 1 give the adapters themselves, to the bit.

        A weight per coordinate belongs to the factors, whatever the space.
        """
        if isinstance(weight, Mapping) or weight in (0.0, 1.0):
            return interpolate(self.federated, self.local, weight)
        return interpolate(self.federated_end, self.local_end, weight)

    def slopes(self, gradients: Mapping[str, Tensor]) -> Tensor:
        """Return each sample's dℓ/dλ at a point of the segment, shape (n,), float64.

        ``gradients`` are the samples' gradients there, (n, *shape of the tensor) each; of some
        tensors alone they give the part of the slopes that comes from these.
        """

        def part(name: str, gradient: Tensor) -> Tensor:
            direction = (self.federated_end[name] - self.local_end[name]).double().flatten()
            return gradient.double().flatten(1) @ direction.to(gradient.device)

        return torch.stack([part(name, tensor) for name, tensor in gradients.items()]).sum(0)

    def own_factors(self, tensors: Mapping[str, Tensor], end: End) -> dict[str, Tensor]:
        """Cut the part that belongs to one adapter's own factors out of tensors shaped as an end.

        ``tensors`` are gradients with any number of leading dimensions, of all layers or of some.
        In ``factors`` they are the adapter's own already; in ``delta`` they are its rows of A and
        columns of B.
        """
        if self.space == "factors":
            return dict(tensors)
        own = dict(tensors)
        for a, b in lora_pairs(tensors):
            first = self.federated[a].shape[0]
            part = slice(0, first) if end == "federated" else slice(first, None)
            # Behind any leading dimensions: (r, in, …) and (out, r, …), … the kernel's.
            rows, columns = -self.federated[a].ndim, 1 - self.federated[b].ndim
            own[a] = tensors[a].movedim(rows, 0)[part].movedim(0, rows)
            own[b] = tensors[b].movedim(columns, 0)[part].movedim(0, columns)
        return own


def segment_between(federated: Adapter, local: Adapter, space: Space) -> Segment:
    """Return the segment between two adapters of the same layers in a merge space."""
    if space == "factors":
        return Segment(federated, local, space, federated, local)
    federated_end, local_end = dict(federated), dict(local)
    for a, b in lora_pairs(federated):
        both = torch.cat([federated[a], local[a]], dim=0)
        federated_end[a] = local_end[a] = both
        federated_end[b] = torch.cat([federated[b], torch.zeros_like(local[b])], dim=1)
        local_end[b] = torch.cat([torch.zeros_like(federated[b]), local[b]], dim=1)
    return Segment(federated, local, space, federated_end, local_end)


def interpolate(federated: Adapter, local: Adapter, weight: Weight) -> Adapter:
    """Return λ θ_f + (1 − λ) θ_l, name by name; λ is one number or one per coordinate."""
    if isinstance(weight, Mapping):
        return {
            name: (weight[name] * tensor.double() + (1 - weight[name]) * local[name].double()).to(
                tensor.dtype
            )
            for name, tensor in federated.items()
        }
    if weight in (0.0, 1.0):  # 1·x + 0·y turns −0 into +0
        return {name: tensor.clone() for name, tensor in (local, federated)[int(weight)].items()}
    return {
        name: weight * tensor + (1 - weight) * local[name] for name, tensor in federated.items()
    }


def mean_weight(weight: Weight) -> float:
    """Return λ, or its mean over all coordinates."""
    if not isinstance(weight, Mapping):
        return weight
    total = sum(tensor.double().sum().item() for tensor in weight.values())
    return total / sum(tensor.numel() for tensor in weight.values())


def deltas(
    adapter: Mapping[str, Tensor], scaling: float | Mapping[str, float]
) -> dict[str, Tensor]:
    """Return the update ΔW = s·B·A of every layer, shape (out, in), by the name of its A; s is one
    for all, or one for each, by the same names.

    That of a convolution is (out, in, height, width): B is one of 1 × 1 after A, as peft has it.
    """
    each = scaling if isinstance(scaling, Mapping) else dict.fromkeys(adapter, scaling)
    return {
        a: (each[a] * adapter[b].flatten(1) @ adapter[a].flatten(1)).unflatten(
            1, adapter[a].shape[1:]
        )
        for a, b in lora_pairs(adapter)
    }


def truncate(
    adapter: Adapter, ranks: Mapping[str, int], *, ordered: bool = False
) -> tuple[Adapter, float]:
    """Bring every layer's update to its rank, by the name of its A, by a truncated SVD, the best
    approximation of that rank. One that has no more already stays as it is.

    Parameters
    ----------
    ordered : bool
        Take the SVD of these too: in every layer the first k components, rows of A and columns of
        B, are then the best approximation of rank k.

    Returns
    -------
    tuple of Adapter and float
        The adapter, and its relative error: the Frobenius norm of what was cut off, over all
        layers, divided by that of the updates (0 where there is no update).
    """
    truncated = dict(adapter)
    cut = total = 0.0
    for a, b in lora_pairs(adapter):
        rank = min(ranks[a], adapter[a].shape[0])
        if adapter[a].shape[0] == rank and not ordered:
            continue
        # ΔW = Q_b (R_b R_aᵀ) Q_aᵀ: the SVD of a 2r × 2r matrix is that of the whole update.
        # A convolution's A (r, in, height, width) and B (out, r, 1, 1) as matrices.
        q_a, r_a = torch.linalg.qr(adapter[a].double().flatten(1).T)
        q_b, r_b = torch.linalg.qr(adapter[b].double().flatten(1))
        u, s, vh = torch.linalg.svd(r_b @ r_a.T)
        if not s.any():  # No update: with A = 0 too there would never be one.
            truncated[a], truncated[b] = adapter[a][:rank], torch.zeros_like(adapter[b][:, :rank])
            continue
        root = s[:rank].sqrt()
        first = root[:, None] * (vh[:rank] @ q_a.T)
        second = (q_b @ u[:, :rank]) * root
        truncated[a] = first.reshape(rank, *adapter[a].shape[1:]).to(adapter[a].dtype)
        truncated[b] = second.reshape(-1, rank, *adapter[b].shape[2:]).to(adapter[b].dtype)
        cut += s[rank:].square().sum().item()
        total += s.square().sum().item()
    return truncated, (cut / total) ** 0.5 if total else 0.0
