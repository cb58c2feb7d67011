"""How the tensors of an adapter travel: pure functions from arrays to what is sent, and back.

``float32`` is exact, ``float16`` and ``bfloat16`` round to two bytes (bfloat16 as its bits, for
NumPy has no such type), ``int8`` to one, with one scale per tensor. What int8 rounds away is kept
by the sender and added to what it sends next (error feedback: Seide et al., 2014; arXiv
1901.09847), so that the errors of many rounds do not add up.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from potara_flwr.core.arrays import Arrays

SCALES = "scales"
"""Name of the int8 scales, one a tensor, in the order of the tensors."""
MOST = 127


def encode(
    values: Mapping[str, NDArray], transport: str, residuals: Mapping[str, NDArray] | None = None
) -> tuple[Arrays, Arrays]:
    """Return what is sent of float32 arrays, and what was rounded away.

    Parameters
    ----------
    transport : str
        ``float32``, ``float16``, ``bfloat16`` or ``int8``.
    residuals : mapping, optional
        What was rounded away the last time (int8 only).

    Returns
    -------
    tuple
        The arrays to send, and the new residuals: none but for int8.
    """
    if transport == "int8":
        return _encode_int8(values, residuals or {})
    if transport == "bfloat16":
        return {name: _to_bfloat16(array) for name, array in values.items()}, {}
    with np.errstate(over="ignore"):  # an infinity, which is_finite tells
        return {name: array.astype(transport) for name, array in values.items()}, {}


def decode(sent: Mapping[str, NDArray], transport: str) -> Arrays:
    """Return the float32 arrays that were sent."""
    if transport == "int8":
        names = [name for name in sent if name != SCALES]
        pairs = zip(names, sent[SCALES], strict=True) if names else ()
        return {name: sent[name].astype(np.float32) * scale for name, scale in pairs}
    if transport == "bfloat16":
        return {
            name: (bits.astype(np.uint32) << 16).view(np.float32) for name, bits in sent.items()
        }
    return {name: array.astype(np.float32) for name, array in sent.items()}


def record_of(sent: Mapping[str, NDArray]) -> ArrayRecord:
    """Return arrays as Flower sends them, row by row in memory."""
    return ArrayRecord({name: Array(np.asarray(at, order="C")) for name, at in sent.items()})


def values_of(record: ArrayRecord) -> Arrays:
    """Return the arrays of a record."""
    return {name: array.numpy() for name, array in record.items()}


def is_finite(array: NDArray) -> bool:
    """Say whether an array as it is sent stands for finite numbers only."""
    if array.dtype == np.uint16:  # bfloat16: an exponent of ones is an infinity or no number
        return bool(((array & 0x7F80) != 0x7F80).all())
    return bool(np.isfinite(array).all())


def _to_bfloat16(array: NDArray) -> NDArray:
    """Round to bfloat16, to the nearest and of two to the even one; return the bits."""
    rounded = torch.from_numpy(np.ascontiguousarray(array)).to(torch.bfloat16)
    bits: NDArray = rounded.view(torch.uint16).numpy()
    return bits


def _encode_int8(
    values: Mapping[str, NDArray], residuals: Mapping[str, NDArray]
) -> tuple[Arrays, Arrays]:
    sent: Arrays = {}
    left: Arrays = {}
    scales = []
    for name, array in values.items():
        wanted = array + residuals.get(name, np.float32(0))
        scale = np.float32(np.abs(wanted).max(initial=0.0) / MOST)
        steps = np.rint(wanted / scale) if scale > 0 else np.zeros_like(wanted)
        sent[name] = np.clip(steps, -MOST, MOST).astype(np.int8)
        left[name] = wanted - sent[name].astype(np.float32) * scale
        scales.append(scale)
    if sent:
        sent[SCALES] = np.array(scales, dtype=np.float32)
    return sent, left
