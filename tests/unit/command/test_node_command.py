"""``potara node``: what it hands on, and what it refuses."""

import pytest

from potara_flwr.command import main as command

FLOWERS = [
    "--superlink", "host:443", "--auth-supernode-private-key", "node.key", "--port", "9094",
    "--node-config", 'name="clinic-a" partition-id=0', "--insecure",
]  # fmt: skip


@pytest.fixture
def started(monkeypatch):
    calls = []
    monkeypatch.setattr("potara_flwr.warm.node.run_node", lambda *call: calls.append(call))
    return calls


def test_flowers_options_are_handed_on_as_they_are(started):
    assert command.main(["node", *FLOWERS[:3], "--idle-timeout", "5", *FLOWERS[3:]]) == 0
    assert command.main(["node", *FLOWERS]) == 0
    assert started == [(FLOWERS, 5.0), (FLOWERS, 600.0)]


def test_nobody_waits_a_negative_time(started, capsys):
    assert command.main(["node", "--idle-timeout", "-1"]) == 1
    assert capsys.readouterr().err == "error: --idle-timeout is -1, but must be 0 or more\n"
    assert started == []


@pytest.mark.parametrize("words", [["--isolation", "process"], ["--isolation=process"]])
def test_client_processes_that_somebody_else_starts_cannot_be_warm(started, capsys, words):
    assert command.main(["node", *FLOWERS, *words]) == 1
    assert capsys.readouterr().err.startswith("error: --isolation process: ")
    assert started == []
