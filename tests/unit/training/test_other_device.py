"""All that a client does, on a device that shares no memory with the CPU: what is kept and sent is
on the CPU, what is computed is not, and the numbers are the same.
"""

import pytest
import torch
from far_device import FAR, far_device, move_far
from hub_copies import write_copies
from tiny_llama import make_tiny_llama

from potara_flwr.client.preflight import preflight
from potara_flwr.methods import METHODS
from potara_flwr.tasks.workbench import Workbench
from potara_flwr.training.local_steps import one_thread

SHORT = {"data.test-samples": 6, "local.steps": 3, "train.local-steps": 2, "calibration.samples": 4}


@pytest.fixture(autouse=True)
def thread():
    with one_thread():
        yield


def work(bench):
    """Take two rounds and personalize as client 0; return every adapter, and the report."""
    row = METHODS[bench.settings.method]
    client = row.client(bench, bench.client(0))
    received = client.model.initial
    for server_round in (1, 2):
        received = received | row.train_round(client, received, server_round).adapter
    outcome = row.personalize(client, received)
    return {"received": received, **client.personal, **outcome.adapters}, outcome.report


def check_same(settings):
    """Compare what is left of the work on the CPU and on the far device."""
    tolerance = 1e-2 if settings.model.dtype == "float32" else 0.1
    adapters, report = work(Workbench(settings))
    bench = Workbench(settings)
    with far_device():
        move_far(bench.model)
        preflight(bench, bench.client(0))
        far_adapters, far_report = work(bench)
    assert adapters.keys() == far_adapters.keys()
    for name, adapter in adapters.items():
        for tensor, other in zip(adapter.values(), far_adapters[name].values(), strict=True):
            assert other.device.type == "cpu"
            # Kernels for the CPU alone are not used, so some sums come in another order.
            assert (other - tensor).norm() <= tolerance * tensor.norm() + 1e-6
    assert far_report.personalized.loss == pytest.approx(report.personalized.loss, rel=tolerance)
    assert far_report.personalized.weight == pytest.approx(
        report.personalized.weight, abs=tolerance
    )


def test_a_tensor_on_the_device_meets_no_other():
    with far_device():
        one, other = torch.ones(3).to(FAR), torch.ones(3)
        assert (one + 1).sum().item() == 6
        with pytest.raises(RuntimeError, match="two devices"):
            one + other


@pytest.mark.parametrize("method", METHODS)
def test_methods_on_another_device(tiny, method):
    check_same(tiny({**SHORT, "method": method}))


@pytest.mark.parametrize(
    "overrides",
    [
        {"merge.space": "delta", "merge.svd": True},
        {"calibration.source": "held-out", "train.max-grad-norm": 1.0, "train.accumulate": 2},
    ],
)
def test_merges_on_another_device(tiny, overrides):
    check_same(tiny({**SHORT, **overrides}))


@pytest.fixture(scope="module")
def language(tmp_path_factory):
    folder = tmp_path_factory.mktemp("language")
    return {
        "task.model": str(make_tiny_llama(folder / "model")),
        "data.root": str(write_copies(folder / "root", ["squad_v1", "piqa", "arc_easy"])),
        "data.datasets": "squad_v1,piqa,arc_easy",
        "data.max-tokens": 128,
        "task.max-new-tokens": 4,
    }


@pytest.mark.parametrize(
    "overrides",
    [
        {"task.name": "instruction"},
        {"task.name": "multiple-choice", "data.datasets": "piqa,arc_easy", "data.num-clients": 2,
         "model.dtype": "bfloat16", "model.gradient-checkpointing": True},
    ],
)  # fmt: skip
def test_language_on_another_device(tiny, language, overrides):
    more = {"train.batch-size": 4, "model.attention": "eager", **overrides}
    check_same(tiny({**SHORT, **language, **more}))
