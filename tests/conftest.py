"""Shared fixtures: a tiny random model, and settings that run in a second."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification

from potara_flwr.config import Settings, from_flat
from potara_flwr.workbench import Workbench


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer ViT for 28 × 28 digits, as a Hugging Face model folder."""
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        image_size=28,
        patch_size=14,
        num_channels=1,
        num_labels=10,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.2,
    )
    folder = tmp_path_factory.mktemp("models") / "tiny-vit"
    ViTForImageClassification(config).save_pretrained(folder)
    return folder


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
