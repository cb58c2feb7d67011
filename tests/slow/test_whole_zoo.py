"""The whole zoo: every architecture comes as far as docs/reference/models.md says."""

import datasets
import pytest

from simulations.zoo.catalogue import classes
from simulations.zoo.journey import walk
from simulations.zoo.page import stored


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


@pytest.mark.slow
@pytest.mark.parametrize("one", list(classes()), ids=":".join)
def test_an_architecture_comes_as_far_as_the_page_says(one, tmp_path):
    known = stored()[":".join(one)]  # `make zoo` walks what lacks
    assert walk(*one, tmp_path / one.class_name).outcome == known["outcome"]
