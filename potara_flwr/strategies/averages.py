"""How updates are averaged: pure functions on arrays."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from potara_flwr.core.arrays import Arrays
from potara_flwr.merging.segment import truncate
from potara_flwr.models.adapter import components, kind_of, lora_pairs


def weighted_average(updates: Sequence[Mapping[str, NDArray]], weights: Sequence[float]) -> Arrays:
    """Return Σ w_k u_k / Σ w_k, array by array, summed in the given order in float64.

    The result has the dtype of the first update (McMahan et al., 2017, arXiv 1602.05629, eq. of
    FederatedAveraging).
    """
    return {name: average_of((update[name] for update in updates), weights) for name in updates[0]}


def average_of(arrays: Iterable[NDArray], weights: Sequence[float]) -> NDArray:
    """Return Σ w_k a_k / Σ w_k, summed in the given order in float64, in the dtype of the first.

    One array is held at a time.
    """
    total = float(sum(weights))
    summed: NDArray | None = None
    dtype = None
    for array, weight in zip(arrays, weights, strict=True):
        part = (weight / total) * array.astype(np.float64)
        summed, dtype = (part, array.dtype) if summed is None else (summed + part, dtype)
    assert summed is not None
    return summed.astype(dtype)


def average_components(
    updates: Sequence[Mapping[str, NDArray]],
    weights: Sequence[float],
    start: Mapping[str, NDArray],
) -> Arrays:
    """Return the weighted average of A and B apart: of a component over the updates that have it,
    of a head over all (HeteroFL: arXiv 2010.02090, of ranks RBLA: arXiv 2408.08699).

    An update of rank r has the first r of the components of ``start``: r rows of A (r × in) and
    columns of B (out × r). With zeros in the place of what it lacks, small ranks would shrink what
    large ones have learned. What no update has stays as it is in ``start``.
    """
    averaged: Arrays = {}
    for name, first in start.items():
        if kind_of(name) == "head":
            averaged[name] = average_of((update[name] for update in updates), weights)
            continue
        axis = ("A", "B").index(kind_of(name))
        ranks = [update[name].shape[axis] for update in updates]
        blocks = []
        for low, high in pairwise(sorted({0, *ranks})):
            part = components(name, low, high)
            long = [at for at, rank in enumerate(ranks) if rank >= high]
            these = (updates[at][name][part] for at in long)
            blocks.append(average_of(these, [weights[at] for at in long]))
        blocks.append(first[components(name, max(ranks), first.shape[axis])])
        averaged[name] = np.concatenate(blocks, axis)
    return averaged


def mean_of_clipped(
    start: Mapping[str, NDArray],
    updates: Sequence[Mapping[str, NDArray]],
    clipping_norm: float,
    size: int,
) -> Arrays:
    """Return start + Σ clip(u_k − start) / size, where clip scales a change down to the norm.

    ``size`` clients were asked, and one that has not answered counts as one that changes nothing:
    with or without any one of them the result differs by at most ``clipping_norm`` / ``size``
    (the estimator with a fixed denominator of arXiv 1710.06963, Lemma 1). Summed in the given order
    in float64; the result has the dtypes of ``start``.
    """
    base = {name: array.astype(np.float64) for name, array in start.items()}
    total = {name: np.zeros_like(array) for name, array in base.items()}
    for update in updates:
        change = {name: update[name].astype(np.float64) - array for name, array in base.items()}
        norm = math.sqrt(sum(float(np.square(array).sum()) for array in change.values()))
        scale = min(1.0, clipping_norm / norm) if norm else 1.0
        for name, array in change.items():
            total[name] += scale * array
    return {
        name: (base[name] + total[name] / size).astype(array.dtype) for name, array in start.items()
    }


def stack_updates(updates: Sequence[Mapping[str, NDArray]], weights: Sequence[float]) -> Arrays:
    """Return an adapter of rank Σ r_k whose ΔW is exactly Σ w_k ΔW_k / Σ w_k (FLoRA: arXiv
    2409.05976): the As one below the other, the weighted Bs side by side. Heads are averaged.
    """
    total = float(sum(weights))
    heads = [
        {name: array for name, array in update.items() if kind_of(name) == "head"}
        for update in updates
    ]
    stacked = {**updates[0], **weighted_average(heads, weights)}
    for a, b in lora_pairs(stacked):  # type: ignore[arg-type]  # only the names are read
        stacked[a] = np.concatenate([update[a].astype(np.float64) for update in updates], axis=0)
        parts = [
            (weight / total) * update[b].astype(np.float64)
            for update, weight in zip(updates, weights, strict=True)
        ]
        stacked[b] = np.concatenate(parts, axis=1)
    return stacked


def exact_average(
    updates: Sequence[Mapping[str, NDArray]],
    weights: Sequence[float],
    start: Mapping[str, NDArray],
) -> tuple[Arrays, float]:
    """Return the adapter of the rank of ``start`` whose ΔW is nearest to the mean ΔW, its
    components in the order of their norms: the first r are the nearest adapter of rank r
    (FlexLoRA: arXiv 2402.11505). Updates may have different ranks.

    Where A is not among the arrays it is the same everywhere, and the mean of B is exact as it is.
    Components that the mean has no use for have B = 0, and the A of ``start``, so that they can be
    trained: from A = 0 and B = 0 no gradient leads away.

    Returns
    -------
    tuple
        The adapter, and its relative error: ‖ΔW − mean ΔW‖ / ‖mean ΔW‖ over all layers (Frobenius).
    """
    ranks = {name: array.shape[0] for name, array in start.items() if kind_of(name) == "A"}
    if not ranks:
        return weighted_average(updates, weights), 0.0
    stacked = {
        name: torch.from_numpy(array) for name, array in stack_updates(updates, weights).items()
    }
    truncated, error = truncate(stacked, ranks, ordered=True)
    averaged = {name: truncated[name].numpy().astype(start[name].dtype) for name in start}
    for a, b in lora_pairs(averaged):  # type: ignore[arg-type]  # only the names are read
        columns = np.moveaxis(averaged[b], 1, 0).reshape(averaged[b].shape[1], -1)
        sizes = np.square(columns, dtype=np.float64).sum(1)  # the singular values of ΔW
        used = int((sizes > np.finfo(np.float32).eps * sizes.max(initial=0.0)).sum())
        averaged[a] = np.concatenate([averaged[a][:used], start[a][used:]])
        rest = np.zeros_like(start[b][:, used:])
        averaged[b] = np.concatenate([averaged[b][:, :used], rest], axis=1)
    return averaged, error


def norm_of_change(sent: Arrays, update: Arrays) -> float:
    """Return ‖update − sent‖ (Euclidean, over all arrays, in float64)."""
    squares = (
        float(np.square(update[name].astype(np.float64) - array.astype(np.float64)).sum())
        for name, array in sent.items()
    )
    return math.sqrt(sum(squares))


LEAST_UPDATES = 3
"""Of fewer updates none is in the minority, so that their median says nothing."""


def norm_limit(norms: Collection[float], most_ratio: float) -> float:
    """Return the largest norm that a round's update may have: ``most_ratio`` times the median.

    While fewer than half of the updates are hostile, the median lies within the honest norms,
    whatever the others are. The limit is infinite where ``most_ratio`` is 0, where there are fewer
    than three updates, and where at least half of them change nothing.
    """
    median = float(np.median(list(norms))) if len(norms) >= LEAST_UPDATES else 0.0
    return most_ratio * median or math.inf
