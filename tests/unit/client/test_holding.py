"""What a warm node is asked to hold, and what it then has."""

import json
import os
from types import SimpleNamespace

import pytest

from potara_flwr.client import holding
from potara_flwr.client.participant import client_on
from potara_flwr.settings.groups import ModelSettings
from potara_flwr.tasks.workbench import workbench
from potara_flwr.warm.telling import RESIDENT


@pytest.fixture
def asked(monkeypatch):
    """Return what a fork of a resident process asks for."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    monkeypatch.setenv(RESIDENT, f"{os.getpid()}:{writing}")

    def read() -> list[dict]:
        try:
            return [json.loads(line) for line in os.read(reading, 65536).splitlines()]
        except BlockingIOError:
            return []

    yield read
    os.close(reading)
    os.close(writing)


def message(settings, config, number=0):
    """Return what a handler has of a message."""
    return (
        SimpleNamespace(settings=settings, number=number, classes=""),
        SimpleNamespace(run_config=settings.to_flat(), node_config=config),
    )


def test_what_is_held_is_what_the_next_message_looks_for(tiny, tmp_path, asked, monkeypatch):
    settings, config = tiny(), {"partition-id": 0, "state-dir": str(tmp_path)}
    holding.hold_for_next(*message(settings, config))
    (request,) = asked()
    assert settings.task.model in request["files"]
    module, _, name = request["entry"].partition(":")
    assert (module, getattr(holding, name)) == (holding.__name__, holding.hold)
    held = holding.hold(request["values"])
    assert held.endswith("and the samples of client 0")

    monkeypatch.setattr("potara_flwr.tasks.workbench.LoraModel", None)  # nothing is loaded again
    monkeypatch.setattr("potara_flwr.tasks.workbench.cached_client", None)
    _, number, own = client_on(config, settings, "")
    bench = workbench(own, settings)
    assert bench.model.initial
    assert bench.client(number, tmp_path / "data").client == 0


def test_without_a_state_dir_no_samples_are_prepared(tiny, asked, monkeypatch):
    settings = tiny({"seed": 1})
    holding.hold_for_next(*message(settings, {"partition-id": 0}))
    (request,) = asked()
    monkeypatch.setattr("potara_flwr.tasks.workbench.Workbench.client", None)
    assert holding.hold(request["values"]) == f"the base model {settings.task.model}"


def test_another_base_model_is_another_base(tiny, asked):
    for overrides in ({}, {"seed": 1, "lora.rank": 3}, {"model.dtype": "bfloat16"}):
        holding.hold_for_next(*message(tiny(overrides), {"partition-id": 0}))
    first, same, other = (request["base"] for request in asked())
    assert first == same != other


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ({"device_map": "auto"}, "model.device-map=auto"),
        ({"quantize": "4bit"}, "model.quantize=4bit"),
        ({"device": "meta"}, "it is on meta"),
    ],
)
def test_what_no_fork_can_share_is_not_held(tiny, asked, model, reason):
    settings = tiny()
    other = settings.model_copy(update={"model": settings.model.model_copy(update=model)})
    assert holding.reason_against(ModelSettings(device="cpu")) == ""
    assert reason in holding.reason_against(other.model)
    holding.hold_for_next(*message(other, {"partition-id": 0}))
    assert asked() == []


def test_nobody_is_asked_elsewhere(tiny, asked, monkeypatch):
    holding.hold_for_next(*message(tiny(), {"partition-id": 0}, number=3))  # of 0, 1 and 2
    monkeypatch.setenv(RESIDENT, os.environ[RESIDENT].replace(str(os.getpid()), "1", 1))
    holding.hold_for_next(*message(tiny(), {"partition-id": 0}))
    monkeypatch.delenv(RESIDENT)
    holding.hold_for_next(*message(tiny(), {"partition-id": 0}))
    assert asked() == []
