"""What travels: exact, rounded as torch rounds, and int8 with errors that do not add up."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from potara_flwr.messages.transport import SCALES, decode, encode, is_finite

numbers = st.floats(-1e4, 1e4, width=32, allow_subnormal=False)
tensors = arrays(np.float32, array_shapes(max_dims=2, max_side=6), elements=numbers)
adapters = st.dictionaries(st.sampled_from(["x.lora_A", "x.lora_B", "head"]), tensors)


def sent_and_read(values, transport):
    sent, _ = encode(values, transport)
    return decode(sent, transport)


@given(adapters)
def test_float32_is_exact(values):
    read = sent_and_read(values, "float32")
    assert read.keys() == values.keys()
    assert all(np.array_equal(read[name], array) for name, array in values.items())


@given(adapters)
def test_two_bytes_round_as_torch_rounds(values):
    for transport, dtype in (("bfloat16", torch.bfloat16), ("float16", torch.float16)):
        sent, residuals = encode(values, transport)
        assert residuals == {}
        assert all(array.itemsize == 2 for array in sent.values())
        read = decode(sent, transport)
        for name, array in values.items():
            expected = torch.from_numpy(array).to(dtype).float().numpy()
            assert read[name].dtype == np.float32
            np.testing.assert_array_equal(read[name], expected)


@given(adapters)
def test_int8_is_off_by_half_a_step_at_most(values):
    sent, residuals = encode(values, "int8")
    read = decode(sent, "int8")
    assert read.keys() == values.keys()
    for (name, array), scale in zip(values.items(), sent.get(SCALES, ()), strict=True):
        assert sent[name].dtype == np.int8
        assert scale == pytest.approx(np.abs(array).max() / 127, rel=1e-6)
        tolerance = 0.5 * scale * (1 + 1e-4) + 1e-30
        assert np.abs(read[name] - array).max() <= tolerance
        np.testing.assert_allclose(residuals[name], array - read[name], atol=1e-3 * tolerance)


@given(tensors)
def test_error_feedback_makes_the_mean_of_what_is_sent_the_true_one(array):
    rounds, total, residuals = 50, np.zeros_like(array), None
    for _ in range(rounds):
        sent, residuals = encode({"x": array}, "int8", residuals)
        total += decode(sent, "int8")["x"]
    # The sum is off by what is left of the last round alone, not by fifty roundings.
    largest = float(np.abs(array).max())
    assert np.abs(total / rounds - array).max() <= largest / 127 / rounds + 1e-5 * largest


def test_without_feedback_the_errors_add_up():
    array = np.array([1.0, 0.4 / 127], np.float32)
    sent, _ = encode({"x": array}, "int8")
    assert decode(sent, "int8")["x"][1] == 0.0


def test_zeros_have_a_scale_of_zero():
    sent, residuals = encode({"x": np.zeros((2, 3), np.float32)}, "int8")
    assert sent[SCALES].tolist() == [0.0]
    assert not decode(sent, "int8")["x"].any()
    assert not residuals["x"].any()


@pytest.mark.parametrize("transport", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_seen_in_what_travels(transport, bad):
    for value, finite in ((bad, False), (3.4, True), (-0.0, True)):
        sent, _ = encode({"x": np.array([1.0, value], np.float32)}, transport)
        assert is_finite(sent["x"]) == finite


@pytest.mark.parametrize(
    ("transport", "size"), [("float32", 400), ("float16", 200), ("bfloat16", 200), ("int8", 104)]
)
def test_bytes_of_a_hundred_numbers(transport, size):
    sent, _ = encode({"x": np.linspace(0, 1, 100, dtype=np.float32)}, transport)
    assert sum(array.nbytes for array in sent.values()) == size
