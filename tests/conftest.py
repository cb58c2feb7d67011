"""Shared fixtures: a tiny random model, and settings that run in a second."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest
from own_processes import mark
from tiny_models import make_tiny_digits_vit

from potara_flwr.run_config import from_flat
from potara_flwr.settings.schema import Settings
from potara_flwr.tasks.workbench import Workbench

mark()

# A machine may be busy: how long an example takes is no fault. And what fails, fails every time.
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer ViT for 28 × 28 digits, as a Hugging Face model folder."""
    return make_tiny_digits_vit(tmp_path_factory.mktemp("models") / "tiny-vit")


@pytest.fixture(scope="session")
def tiny(tiny_model: Path) -> Callable[..., Settings]:
    """Build settings of a run with the tiny model; flat names override them."""

    def build(overrides: dict | None = None) -> Settings:
        return from_flat(
            {
                "task.model": str(tiny_model),
                "data.num-clients": 3,
                "data.alpha": 5.0,
                "data.train-samples": 20,
                "data.test-fraction": 0.1,
                "lora.rank": 2,
                "lora.alpha": 4.0,
                "train.batch-size": 8,
                "train.local-steps": 2,
                "federation.rounds": 2,
                "local.steps": 4,
                "local.start": "cold",
                "calibration.samples": 6,
                **(overrides or {}),
            }
        )

    return build


@pytest.fixture
def bench(tiny: Callable[..., Settings]) -> Workbench:
    """The tiny model's workbench, with an adapter whose B is not zero at hand."""
    return Workbench(tiny())
