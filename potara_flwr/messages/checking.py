"""What a reply must look like before anything of it is used.

Nothing here trusts a reply: names, types, counts and bytes are compared with what was asked for,
and no array is unpacked whose bytes do not begin as those of the array that was sent.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict

from potara_flwr.core.errors import one_line
from potara_flwr.messages.transport import is_finite

ROUND = "server-round"
"""Name of the round that a reply answers."""
MOST_LOSS = 1e12
"""No loss is this large; means and sums of smaller ones are finite."""
BOUNDS = {"accuracy": (0.0, 1.0), "seconds": (0.0, 1e9)}
MOST_EXAMPLES = 2**53
"""Whole numbers up to here are exact as floating-point ones."""


@dataclass(frozen=True)
class ReplySpec:
    """What a client was asked for, and so what its reply must be."""

    server_round: int
    """The round; the reply names it (``server-round``)."""
    scores: tuple[str, ...]
    """Its numbers besides ``num-examples`` and ``server-round``: ``loss``, ``accuracy``,
    ``seconds`` (of its optimizer steps)."""
    arrays: ArrayRecord | None = None
    """What the client was sent, where it is to answer with arrays of the same names and shapes."""
    num_examples: int | None = None
    """The samples that the client has told of before the first round, where it has."""


def find_fault(content: RecordDict, asked: ReplySpec) -> str | None:
    """Say in one line what is wrong with a reply, or None; never raises.

    A good reply has one metric record ``metrics`` with exactly the numbers that were asked for, all
    finite, the round it answers and a whole, positive ``num-examples``; where arrays are asked for,
    one array record ``arrays`` with the names, shapes and dtypes of those that were sent and finite
    values only; and nothing else.
    """
    expected = {"metrics": MetricRecord} | ({"arrays": ArrayRecord} if asked.arrays else {})
    if set(content) != set(expected):
        return f"has the records {some(content)}, not {some(expected)}"
    for name, kind in expected.items():
        if not isinstance(content[name], kind):
            return f"its record {name!r} is a {type(content[name]).__name__}"
    fault = _fault_of_numbers(dict(content.metric_records["metrics"]), asked)
    if fault is None and asked.arrays is not None:
        fault = _fault_of_arrays(content.array_records["arrays"], asked.arrays)
    return fault and one_line(fault)


def _fault_of_numbers(numbers: Mapping[str, object], asked: ReplySpec) -> str | None:
    expected = {"num-examples", ROUND, *asked.scores}
    if difference := set(numbers) ^ expected:
        return f"the metrics {some(difference)} are missing or not asked for"
    if not is_whole(numbers[ROUND], asked.server_round, asked.server_round):
        return f"answers round {shown(numbers[ROUND])}, not {asked.server_round}"
    count, told = numbers["num-examples"], asked.num_examples
    if not is_whole(count, 1, MOST_EXAMPLES):
        return f"num-examples is {shown(count)}, not a whole number above 0"
    if told is not None and count != told:
        return f"num-examples is {shown(count)}, but the client has told of {told} samples"
    for name in asked.scores:
        value = numbers[name]
        low, high = BOUNDS.get(name, (-MOST_LOSS, MOST_LOSS))
        good = isinstance(value, int | float) and low <= value <= high  # NaN is not between
        if isinstance(value, bool) or not good:
            wanted = f"a finite number from {low:g} to {high:g}"
            return f"the metric {name!r} is {shown(value)}, not {wanted}"
    return None


def is_whole(value: object, low: int, high: int) -> bool:
    """Say whether a value is a whole number, which a truth value is not, within bounds."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _fault_of_arrays(arrays: ArrayRecord, sent: ArrayRecord) -> str | None:
    if difference := set(arrays) ^ set(sent):
        return f"the arrays {some(difference)} are missing or not asked for"
    for name, wanted in sent.items():
        if fault := _fault_of_array(arrays[name], wanted):
            return f"the array {name!r} {fault}"
    return None


def _fault_of_array(array: Array, wanted: Array) -> str | None:
    """Hold an array against the one that was sent: what it says of itself, then how its bytes
    begin. Where they begin alike and are as many, NumPy reads a header of the server's own, and no
    size that a client declares is ever allocated.
    """
    shape = tuple(wanted.shape)
    if array.stype != wanted.stype:
        return f"is serialized as {array.stype!r}, not {wanted.stype!r}"
    if (array.dtype, tuple(array.shape)) != (wanted.dtype, shape):
        return f"is {array.dtype} {shown(array.shape)}, not {wanted.dtype} {shape}"
    header = len(wanted.data) - math.prod(shape) * np.dtype(wanted.dtype).itemsize
    if len(array.data) != len(wanted.data) or array.data[:header] != wanted.data[:header]:
        return f"cannot be read: its bytes are not those of a {wanted.dtype} array {shape}"
    if not is_finite(array.numpy()):
        return "has values that are not finite"
    return None


def shown(value: object) -> str:
    """Return a value for an error line, where it is not too large for one."""
    if isinstance(value, list | tuple):
        items = ", ".join(shown(item) for item in value[:5])
        return f"({items}, … {len(value)} in all)" if len(value) > 5 else f"({items})"
    if isinstance(value, int) and abs(value) > 10**20:
        return "a whole number of more than 20 digits"
    return repr(value)


def some(names: Collection[str]) -> str:
    """Return a few of the names, sorted and quoted, and how many there are besides."""
    shown = sorted(name if len(name) <= 60 else f"{name[:60]}…" for name in names)[:5]
    more = len(names) - len(shown)
    return f"{shown}{f' and {more} more' if more else ''}"
