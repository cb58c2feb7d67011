"""Tests of what only a CUDA GPU shows. Where there is none they are not collected, and so without
``-m gpu`` (``make gpu``).
"""

import os

import pytest


def has_gpu() -> bool:
    """Say whether there is one; torch is not loaded where it is hidden anyway."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return False
    import torch

    return torch.cuda.is_available()


def pytest_ignore_collect():
    """Leave these tests out where they show nothing."""
    return None if has_gpu() else True


@pytest.fixture(scope="session")
def device():
    """Where the clients of these tests compute."""
    import torch

    return torch.device("cuda")


@pytest.fixture(autouse=True)
def float32_as_it_is():
    from simulations.bench.parity import exact

    with exact():
        yield


@pytest.fixture(scope="session")
def language(tmp_path_factory):
    """The settings that name a random language model and invented questions."""
    from hub_copies import write_copies
    from tiny_llama import make_tiny_llama

    folder = tmp_path_factory.mktemp("language")
    return {
        "task.model": str(make_tiny_llama(folder / "model")),
        "data.root": str(write_copies(folder / "root")),
    }


@pytest.fixture(params=["images", "language"])
def material(request, tiny, language):
    """Build settings of a client of each kind; flat names override them."""
    from potara_flwr.run_config import from_flat

    if request.param == "images":
        return tiny
    questions = {
        **language,
        "task.name": "multiple-choice",
        "data.datasets": "piqa,arc_easy",
        "data.num-clients": 2,
        "data.max-tokens": 96,
        "data.train-samples": 20,
        "data.test-samples": 6,
        "lora.rank": 2,
        "lora.alpha": 4.0,
        "train.batch-size": 4,
        "calibration.samples": 6,
        "run.report": False,
    }
    return lambda overrides=None: from_flat({**questions, **(overrides or {})})
