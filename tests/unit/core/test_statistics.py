"""Means, spreads and paired differences, by hand."""

import math

import pytest

from potara_flwr.core.statistics import Difference, Spread, difference, spread


def test_a_spread_is_the_sample_standard_deviation():
    assert spread([1.0, 2.0, 3.0]) == Spread(2.0, 1.0)
    assert spread([0.5]) == Spread(0.5, None)


def test_a_difference_has_two_standard_errors():
    # s² = ((−1)² + 0² + 1²) / 2 = 1, so 2·s/√n = 2/√3.
    assert difference([1.0, 2.0, 3.0]) == Difference(2.0, pytest.approx(2 / math.sqrt(3)), 3)
    assert difference([0.5]) == Difference(0.5, None, 1)
    assert difference([]) is None


def test_a_difference_is_sure_beyond_two_standard_errors():
    sure = {(1.0, 2.0, 3.0): True, (-1.0, -2.0, -3.0): True, (0.0, 1.0, 2.0): False, (5.0,): False}
    assert {values: difference(values).is_sure for values in sure} == sure


def test_words_have_a_spread_where_there_is_one():
    assert spread([0.85, 0.87]).words(100) == "86.0 ± 1.4"
    assert spread([0.85]).words(decimals=2) == "0.85"
    assert difference([0.01, 0.03]).words(100) == "+2.0 ± 2.0"
    assert difference([-0.01]).words(100) == "-1.0"
