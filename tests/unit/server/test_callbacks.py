"""How long the rest of a run takes, by the rounds so far."""

from types import SimpleNamespace

import pytest
from flwr.app import ArrayRecord, MetricRecord

from potara_flwr.data.account import HeldRows
from potara_flwr.messages.ledger import Ledger
from potara_flwr.messages.reports import Description
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


@pytest.fixture
def logged(monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(
        callbacks, "log", lambda _, form, *values: said.append(form % tuple(map(str, values)))
    )
    return said


@pytest.mark.parametrize(("clients", "lines"), [(3, 3), (100, 100), (1000, 100)])
def test_of_many_clients_every_hundredth_is_logged_when_it_is_personalized(logged, clients, lines):
    run = SimpleNamespace(
        asked=dict.fromkeys(range(clients)), total=1, ledger=Ledger(),
        clock=SimpleNamespace(running=lambda: 1.0),
    )  # fmt: skip
    progress = LogProgress()
    for _ in range(clients):
        progress.on_reply(run, SimpleNamespace(has_content=lambda: False))
    steps = [Progress.parse(line) for line in logged]
    assert len(steps) == lines
    assert steps[-1].done == steps[-1].total == clients


@pytest.mark.parametrize(("clients", "lines"), [(40, 41), (41, 2)])
def test_of_many_clients_the_rows_are_said_together(logged, clients, lines):
    descriptions = {
        client: Description(
            client=client, num_train=10 + client, num_calibration=2, num_test=5,
            rows=HeldRows(found=17 + client, train=10 + client, calibration=2, test=5),
        )
        for client in range(clients)
    }  # fmt: skip
    run = SimpleNamespace(settings=from_flat({}), descriptions=descriptions)
    LogProgress().before_rounds(run)
    assert len(logged) == lines
    assert logged[-1].startswith("rows: in all: ")
    if lines == 2:
        assert logged[0] == (
            "rows: each of 41 clients: 10 to 50 for training (median 30), 2 to 2 for calibration "
            "(median 2), 5 to 5 for testing (median 5)"
        )
