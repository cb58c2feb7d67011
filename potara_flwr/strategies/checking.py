"""What a reply must look like before anything of it is used."""

from __future__ import annotations

import math

from flwr.app import ArrayRecord, MetricRecord, RecordDict

from potara_flwr.transport import is_finite


def find_fault(content: RecordDict, sent: ArrayRecord | None) -> str | None:
    """Say what is wrong with a reply, or None.

    A good reply has one metric record ``metrics`` of finite numbers with a whole, positive
    ``num-examples``, and, where ``sent`` is given, one array record ``arrays`` with the keys,
    shapes and dtypes of ``sent``, as both travel, and finite values only; and nothing else.
    """
    expected = {"metrics"} | ({"arrays"} if sent is not None else set())
    if set(content) != expected:
        return f"has the records {sorted(content)}, not {sorted(expected)}"
    metrics = content["metrics"]
    if not isinstance(metrics, MetricRecord):
        return "its record 'metrics' holds no metrics"
    num_examples = metrics.get("num-examples")
    if not isinstance(num_examples, int) or num_examples < 1:
        return f"num-examples is {num_examples!r}, not a whole number above 0"
    for name, value in metrics.items():
        if isinstance(value, list) or not math.isfinite(value):
            return f"the metric {name!r} is {value!r}, not a finite number"
    if sent is None:
        return None
    arrays = content["arrays"]
    if not isinstance(arrays, ArrayRecord):
        return "its record 'arrays' holds no arrays"
    if difference := set(arrays) ^ set(sent):
        return f"the arrays {sorted(difference)} are missing or not asked for"
    for name, expected_array in sent.items():
        try:
            array = arrays[name].numpy()
        except (ValueError, TypeError, OSError, EOFError) as error:
            return f"the array {name!r} cannot be read: {error}"
        wanted = (tuple(expected_array.shape), expected_array.dtype)
        if (array.shape, str(array.dtype)) != wanted:
            return f"the array {name!r} is {array.dtype} {array.shape}, not {wanted[1]} {wanted[0]}"
        if not is_finite(array):
            return f"the array {name!r} has values that are not finite"
    return None
