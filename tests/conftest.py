"""Shared fixtures: a tiny random model, settings that run in a second; who shares a worker."""

from __future__ import annotations

import base64
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
from own_processes import mark

if TYPE_CHECKING:  # the process that hands out the tests imports nothing that is slow
    from potara_flwr.settings.schema import Settings
    from potara_flwr.tasks.workbench import Workbench

# Before anything is imported that reads them.
CACHE = tempfile.TemporaryDirectory(prefix="potara-tests-")
"""The data sets' cache, of this worker and the processes that it starts alone."""
os.environ["HF_DATASETS_CACHE"] = CACHE.name
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of torch: the workers share the cores
mark()

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII="
)
"""A PNG of one pixel."""
TOGETHER = {
    "processes": ("test_container_roles", "test_deployment", "test_flwr_run", "test_sweep"),
    "methods": ("test_messages", "test_method_runs", "test_offline", "test_resume"),
}
"""Files for one worker: those that start Flower or Ray; those that share a run of each method."""
GROUPS = {file: group for group, files in TOGETHER.items() for file in files}

# A machine may be busy: how long an example takes is no fault. And what fails, fails every time.
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=40)
hypothesis.settings.load_profile("repeatable")


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs from all tests but theirs: what these compare are bits of a CPU."""
    if config.getoption("markexpr") != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_unconfigure() -> None:
    """Leave no cache behind."""
    CACHE.cleanup()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest; many short tests fill what is left at the end."""
    first = [*TOGETHER, None]
    items.sort(key=lambda item: first.index(GROUPS.get(item.path.stem)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep a file's tests in one worker, and those of a group of files.

    With ``--dist loadgroup``, which would do, xdist 3.8 and pytest 9.2 form no group.
    """
    from xdist.scheduler import LoadFileScheduling

    class FilesTogether(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return GROUPS.get(Path(file).stem, file)

    return FilesTogether(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer ViT for 28 × 28 digits, as a Hugging Face model folder."""
    from tiny_models import make_tiny_digits_vit

    return make_tiny_digits_vit(tmp_path_factory.mktemp("models") / "tiny-vit")


@pytest.fixture(scope="session")
def tiny(tiny_model: Path) -> Callable[..., Settings]:
    """Build settings of a run with the tiny model and no report; flat names override them."""
    from potara_flwr.run_config import from_flat

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
                "run.report": False,
                **(overrides or {}),
            }
        )

    return build


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have reports embed one pixel for each figure, for tests that read their words alone."""
    from potara_flwr.results import html

    monkeypatch.setattr(html, "png_of", lambda figure: PIXEL)


@pytest.fixture
def bench(tiny: Callable[..., Settings]) -> Workbench:
    """The tiny model's workbench, with an adapter whose B is not zero at hand."""
    from clients import bench_of

    return bench_of(tiny())
