"""``potara personalize``: how its words reach the function behind it, and what it says."""

from __future__ import annotations

from pathlib import Path

import pytest
from results_example import example_results

from potara_flwr.command import main as command
from potara_flwr.command.personalize import summary_of
from potara_flwr.core.errors import SettingsError


@pytest.fixture
def offline(monkeypatch):
    """The function behind the command, replaced by one; returns what it is called with."""
    calls = []

    def personalize_offline(federated, out, *, client=None, data="", model=""):
        if not data and client is None:
            raise SettingsError("name the client's number in the run, or data of your own")
        calls.append((federated, out, client, data, model))
        return example_results(clients=1)["clients"][0]

    monkeypatch.setattr("potara_flwr.offline.personalize_offline", personalize_offline)
    return calls


def test_words_reach_the_function_and_scores_come_back(offline, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["personalize", "--federated", "run", "--out", "mine"]
    assert command.main([*words, "--data", "rows.csv", "--model", "base"]) == 0
    assert command.main([*words, "--client", "3"]) == 0
    where = (tmp_path / "run", tmp_path / "mine")
    assert offline == [(*where, None, "rows.csv", "base"), (*where, 3, "", "")]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("personalized: ")
    assert lines[1] == f"results: {tmp_path / 'mine'}"


def test_wrong_words_are_one_line(offline, capsys):
    assert command.main(["personalize", "--federated", "run"]) == 2
    assert capsys.readouterr().err == "error: Missing option '--out'. (potara personalize --help)\n"
    words = ["personalize", "--federated", "run", "--out", "mine"]
    assert command.main([*words, "--client", "-1"]) == 2
    assert "'--client'" in capsys.readouterr().err
    assert command.main(words) == 1
    assert capsys.readouterr().err.startswith("error: name the client's number")
    assert offline == []
    assert not Path("mine").exists()


def test_a_report_in_one_line():
    report = {
        "num_test": 40,
        "accuracy": {"initial": 0.1, "federated": 0.5, "local": 0.75, "uniform": 0.8},
        "personalized": {"accuracy": 0.825, "weight": 0.256},
    }
    assert summary_of(report) == (
        "personalized: 82.5 % of 40 test samples (initial 10.0, federated 50.0, local 75.0); λ 0.26"
    )
    report["personalized"] = {"accuracy": 0.825}
    assert summary_of(report).endswith("local 75.0)")
