"""The whole zoo: every architecture comes as far as docs/reference/models.md says."""

import pytest

from simulations.zoo.catalogue import classes
from simulations.zoo.journey import walk
from simulations.zoo.page import stored


@pytest.mark.slow
@pytest.mark.parametrize("one", list(classes()), ids=":".join)
def test_an_architecture_comes_as_far_as_the_page_says(one, tmp_path):
    known = stored()[":".join(one)]  # `make zoo` walks what lacks
    assert walk(*one, tmp_path / one.class_name).outcome == known["outcome"]
