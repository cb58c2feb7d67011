"""A client on a GPU: in float32 the numbers of the CPU, in fewer bits nearly those."""

import importlib.util
import math

import pytest
import torch

from potara_flwr.core.errors import SettingsError
from potara_flwr.methods import METHODS
from simulations.bench.parity import (
    TOLERANCES,
    client_on,
    differences,
    distance,
    flat,
    way_of,
    work_of,
)

pytestmark = pytest.mark.gpu
CPU = torch.device("cpu")


def apart(settings, device):
    """Return how far the numbers on the device are from those of the CPU."""
    return differences(work_of(client_on(settings, device)), work_of(client_on(settings, CPU)))


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"merge.space": "delta", "merge.svd": True},
        {"train.accumulate": 2, "train.max-grad-norm": 0.5},
        {"calibration.source": "held-out", "calibration.batch-size": 4},
    ],
)
def test_numbers_are_those_of_the_cpu(material, device, overrides):
    found = apart(material(overrides), device)
    assert {name: value for name, value in found.items() if not value <= TOLERANCES[name]} == {}


def test_the_same_work_gives_the_same_numbers_again(material, device):
    one, other = (work_of(client_on(material(), device)) for _ in range(2))
    assert differences(one, other)["losses"] == 0.0
    assert distance(one.way, other.way) <= TOLERANCES["trained adapter"]


def test_what_a_client_keeps_and_sends_is_on_the_cpu(material, device):
    client = client_on(material(), device)
    assert next(client.model.module.parameters()).device.type == device.type
    update = METHODS["potara"].train_round(client, client.model.initial, 1)
    outcome = METHODS["potara"].personalize(client, update.adapter)
    for adapter in (update.adapter, *outcome.adapters.values()):
        for tensor in adapter.values():
            assert tensor.device.type == "cpu"
            assert tensor.dtype == torch.float32
    assert math.isfinite(outcome.report.personalized.loss)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_ends_as_on_the_cpu(tiny, device, method):
    def ended(at):
        client = client_on(tiny({"method": method, "data.test-samples": 12}), at)
        row = METHODS[method]
        update = row.train_round(client, client.model.initial, 1)
        outcome = row.personalize(client, client.model.initial | update.adapter)
        return flat(update.adapter), outcome.report

    (found, report), (right, expected) = ended(device), ended(CPU)
    assert distance(found, right) <= TOLERANCES["trained adapter"]
    assert report.personalized.loss == pytest.approx(expected.personalized.loss, rel=1e-2)


def test_bfloat16_is_near_float32(material, device):
    # It has eight bits, a relative 4e-3 an operation; adapters, gradients and traces stay float32.
    small = work_of(client_on(material({"model.dtype": "bfloat16"}), device))
    found = differences(small, work_of(client_on(material(), device)))
    assert found["losses"] <= 0.03
    assert found["training loss"] <= 0.1
    assert small.gradients.dtype == torch.float32


def test_activations_computed_anew_give_the_same_steps(material, device):
    found, right = (
        way_of(client_on(material({"model.gradient-checkpointing": on}), device))[0]
        for on in (True, False)
    )
    assert distance(found, right) <= TOLERANCES["trained adapter"]


def test_four_bit_weights_train_or_say_what_they_lack(material, device):
    settings = material({"model.quantize": "4bit", "model.dtype": "bfloat16"})
    if importlib.util.find_spec("bitsandbytes") is None:
        with pytest.raises(SettingsError, match=r"potara-flwr\[quantized\]"):
            client_on(settings, device)
        return
    client = client_on(settings, device)
    found = work_of(client)
    assert any(weight.dtype == torch.uint8 for weight in client.model.module.parameters())
    # Sixteen values a weight, which is a tenth of its size; random weights have no structure.
    assert differences(found, work_of(client_on(material(), device)))["losses"] <= 0.5
    assert bool(found.way.isfinite().all())
    assert bool(found.way.any())
