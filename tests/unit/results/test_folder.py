"""Folders, digests, summaries, and folders replaced whole or not at all."""

import copy

import pytest
from results_example import example_results

from potara_flwr.results.folder import (
    digest,
    read_results,
    results_folder,
    summarize,
    write_results,
)
from potara_flwr.run_config import from_flat


def test_the_digest_leaves_out_times_and_nothing_else():
    results = example_results()
    slower, other = copy.deepcopy(results), copy.deepcopy(results)
    slower["rounds"][0]["seconds"] += 1.0
    slower["clients"][0]["seconds"]["weight"] += 1.0
    other["clients"][0]["weights"]["segment"] += 1e-16 + 1e-9
    assert digest(slower) == digest(results)
    assert digest(other) != digest(results)


def test_results_are_written_whole_with_their_digest(tmp_path):
    results = example_results()
    write_results(tmp_path, results)
    assert read_results(tmp_path) == {**results, "digest": digest(results)}
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]


def test_a_number_that_is_not_finite_is_not_written(tmp_path):
    results = example_results()
    results["clients"][0]["traces"]["federated"] = float("nan")
    with pytest.raises(ValueError, match="JSON"):
        write_results(tmp_path, results)
    assert not list(tmp_path.iterdir())


def test_means_regrets_and_weights():
    def client(num_test, local, rule, oracle):
        accuracy = {"local": local, "rule": rule, "oracle": oracle}
        return {
            "num_test": num_test,
            "optimizer_steps": num_test,
            "weights": {"rule": 0.5, "oracle": 0.1},
            "accuracy": accuracy,
            "loss": {name: 1 - value for name, value in accuracy.items()},
            "personalized": {"accuracy": rule, "loss": 1 - rule, "fallback": ""},
            "diagnosis": {"warning": "" if num_test == 10 else "odd"},
            "grid": [],
        }

    summary = summarize([client(10, 0.5, 0.6, 0.8), client(30, 0.9, 0.8, 0.9)])
    assert summary["optimizer_steps"] == {"mean": 20.0, "total": 40}
    assert (summary["fallbacks"], summary["warnings"]) == (0, 1)
    assert summary["mean"]["accuracy"]["local"] == pytest.approx(0.7)
    assert summary["weighted_mean"]["accuracy"]["local"] == pytest.approx(0.8)
    assert summary["regret"]["rule"]["accuracy"] == pytest.approx(0.15)
    assert summary["regret"]["rule"]["loss"] == pytest.approx(0.15)
    assert summary["regret"]["personalized"] == pytest.approx(summary["regret"]["rule"])


def test_server_and_clients_agree_on_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert results_folder(from_flat({}), 12) == tmp_path / "potara-results" / "run-12"
    named = from_flat({"run.results": "~/here"})
    assert results_folder(named, 12) == tmp_path / "here"
