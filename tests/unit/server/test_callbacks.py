"""How long the rest of a run takes, by the rounds so far."""

from types import SimpleNamespace

import pytest
from flwr.app import ArrayRecord, MetricRecord

from potara_flwr.messages.ledger import Ledger
from potara_flwr.methods import METHODS
from potara_flwr.run_config import from_flat
from potara_flwr.server import callbacks
from potara_flwr.server.callbacks import LogProgress
from potara_flwr.server.progress import Progress
from potara_flwr.server.rounds import RoundResult

SETTINGS = {"federation.rounds": 4, "train.local-steps": 10, "local.steps": 300}


def seconds_left(monkeypatch, overrides, round_seconds, training_seconds) -> list[int]:
    """Return what is said after each of two rounds with three clients."""
    said: list[int] = []
    monkeypatch.setattr(
        callbacks, "log", lambda _, form, line: said.append(Progress.parse(str(line)).seconds_left)
    )
    settings = from_flat(SETTINGS | overrides)
    method = METHODS[settings.method]
    run = SimpleNamespace(
        settings=settings, method=method, total=method.rounds(settings), ledger=Ledger(), rounds=[]
    )
    trained = MetricRecord(
        {
            "loss": 1.0, "seconds": training_seconds, "clients": [0, 1, 2],
            "training-seconds": [training_seconds] * 3,
        }
    )  # fmt: skip
    progress = LogProgress()
    for server_round in (1, 2):
        run.rounds.append({"seconds": round_seconds})
        progress.after_round(run, RoundResult.of(server_round, ArrayRecord(), trained, None))
    return said


@pytest.mark.parametrize(
    ("overrides", "round_seconds", "training_seconds", "left"),
    [
        # One client after the other: the round is its steps, and the last phase 30 times as many.
        ({}, 3.0, 1.0, [9 + 90, 6 + 90]),
        # A process for every message: half a second of 40 are steps; 38.5 are spent once more.
        ({}, 40.0, 0.5, [120 + 38.5 + 45, 80 + 38.5 + 45]),
        # No local phase, and a client that lies about its time: never more than the round.
        ({"method": "fedit"}, 3.0, 1e6, [399, 396]),
    ],
)
def test_the_last_phase_costs_its_steps_and_one_start(
    monkeypatch, overrides, round_seconds, training_seconds, left
):
    if overrides:
        overrides = {**overrides, "federation.baseline-rounds": 134}
    said = seconds_left(monkeypatch, overrides, round_seconds, training_seconds)
    assert said == pytest.approx(left, abs=0.51)
