"""What is said of many clients: few of their names, and quantiles."""

import pytest

from potara_flwr.core.many import FEW, MANY, QUANTILES, named, quantiles


def test_few_names_are_all_said():
    names = [str(number) for number in range(MANY)]
    assert named(names) == ", ".join(names)
    assert named(["one"], "; ") == "one"


def test_of_many_names_the_first_few_are_said_and_how_many_more():
    line = named([f"client {number}" for number in range(2000)], "; ")
    assert line.startswith("client 0; client 1; ")
    assert line.endswith(f"client {FEW - 1} and 1,990 more")


@pytest.mark.parametrize("numbers", [[3.0], list(range(101))])
def test_quantiles_are_in_order_from_the_lowest_to_the_highest(numbers):
    found = quantiles(numbers)
    assert list(found) == list(QUANTILES)
    assert list(found.values()) == sorted(found.values())
    assert (found["lowest"], found["highest"]) == (min(numbers), max(numbers))
