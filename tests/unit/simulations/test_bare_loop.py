"""The bare peft loop that a client's speed is held against does the client's work."""

import pytest
import torch
from hub_copies import write_copies
from tiny_llama import make_tiny_llama

from potara_flwr.training.local_steps import one_thread
from simulations.bench import gpu
from simulations.bench.gpu import SPEED, BareLoop, order_of, work_in
from simulations.bench.parity import client_on, distance, flat


@pytest.fixture
def language(tmp_path):
    return {
        "task.model": str(make_tiny_llama(tmp_path / "model")),
        "data.root": str(write_copies(tmp_path / "root", ["piqa"])),
        "data.datasets": "piqa",
        "data.num-clients": 1,
        "task.name": "multiple-choice",
    }


@pytest.mark.parametrize("unit", ["images", "tokens"])
def test_the_bare_loop_ends_with_the_adapter_of_the_client(tiny, language, monkeypatch, unit):
    monkeypatch.setattr(gpu, "TIMED_STEPS", 4)
    client = client_on(tiny(language if unit == "tokens" else {}), torch.device("cpu"))
    start = client.model.initial
    with one_thread():
        trained, _ = client.train(start, steps=4, purpose=SPEED, when="here")
        found = BareLoop(client).train(start, order_of(client, SPEED))
    assert distance(flat(found) - flat(start), flat(trained) - flat(start)) <= 1e-2
    count, named = work_in(client, SPEED)
    assert named == unit
    assert count >= 4 * client.settings.train.batch_size
