"""docs/research/results.md: every method on a tiny federation, what is kept of it, and the page."""

import json
import random
import statistics

import pytest

from potara_flwr.methods import METHODS
from potara_flwr.run_config import from_flat
from simulations.measuring import STORED
from simulations.method_quality import __main__ as method_quality
from simulations.method_quality import page
from simulations.method_quality.stored import Store, compact
from simulations.method_quality.studies import (
    DIGITS,
    LEARNING_RATES,
    SENTIMENT,
    TRANSPORT_SEEDS,
    TRANSPORTS,
    TUNING_SEED,
    Benchmark,
    benchmarks,
    best_rates,
    contest,
    transports,
    tuning,
)

pytestmark = pytest.mark.integration

BEST = max(LEARNING_RATES)
"""Learning rate of the best among the invented runs."""


@pytest.fixture
def stores(tmp_path):
    """Empty stores of the real benchmarks."""
    return [Store(one, tmp_path / "stored") for one in benchmarks(None, None).values()]


def invented(settings, draw):
    """A run that never happened."""
    best = 0.9 if settings.train.learning_rate == BEST else 0.5
    shown = {"accuracy": best + draw.uniform(-0.01, 0.01), "loss": 1.0}
    clients = [
        {
            "client": client,
            "num_test": 10,
            "optimizer_steps": 500,
            "personalized": shown,
            "accuracy": {"initial": 0.1},
            "seconds": {"training": 1.0},
        }
        for client in range(2)
    ]
    results = {
        "method": settings.method,
        "digest": "",
        "rounds": [{}] * 20,
        "communication": {"bytes_up": 10_000, "bytes_down": 10_000},
        "clients": clients,
        "summary": {
            "optimizer_steps": {"mean": 500.0},
            "mean": {name: {"personalized": value} for name, value in shown.items()},
        },
        "seconds": {"rounds": 1.0},
    }
    return compact(results, settings)


def test_a_run_is_made_once_and_found_again_by_its_settings(tiny, tmp_path, monkeypatch):
    benchmark = Benchmark("tiny", tiny({}))
    settings = benchmark.run("fedit_ft", seed=1, rate=3e-3)
    run = method_quality.make(settings, tmp_path / "results")
    monkeypatch.setattr(method_quality, "run_job", None)
    assert method_quality.make(settings, tmp_path / "results") == run
    stored = Store(benchmark, tmp_path)
    assert settings not in stored
    stored.add(run)
    again = Store(benchmark, tmp_path)
    assert settings in again
    assert again.of([settings]) == [run]
    assert benchmark.run("fedit_ft", seed=2, rate=3e-3) not in again
    assert run["clients"][0]["optimizer_steps"] == method_steps(settings)
    older = json.loads(json.dumps(run))
    del older["config"]["calibration"]["batch-size"]
    again.add(older)
    assert len(again.of_all()) == 1


def method_steps(settings):
    """The steps of a client that takes part in every round."""
    return settings.federation.rounds * settings.train.local_steps + settings.local.steps


def test_a_path_of_another_machine_is_the_same_run():
    here, there = (benchmarks(f"/{place}/s.parquet", f"/{place}/model") for place in "ab")
    runs = [next(contest(one[SENTIMENT], 0, dict.fromkeys(METHODS, 1e-3))) for one in (here, there)]
    kept = [invented(run, random.Random(0)) for run in runs]
    assert kept[0]["config"] == kept[1]["config"]


def test_every_method_runs_at_its_best_rate_of_the_grid(stores):
    digits = stores[0]
    draw = random.Random(0)
    assert set(best_rates(digits.benchmark, []).values()) == {3e-3}
    for settings in tuning(digits.benchmark):
        digits.add(invented(settings, draw))
    rates = best_rates(digits.benchmark, digits.of_all())
    assert rates == dict.fromkeys(METHODS, BEST)
    wanted = list(method_quality.compared(stores, seeds=2, sentiment_seeds=1))
    of_digits = [settings for store, settings in wanted if store is digits]
    assert {settings.train.learning_rate for settings in of_digits} == {BEST}
    assert len(of_digits) == 2 * len(METHODS) + 2 * 2 * len(TRANSPORTS)


def test_the_page_tells_of_every_method_and_only_of_whole_seeds(stores, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(page, "IMAGES", tmp_path / "images")
    draw = random.Random(0)
    page.write_page(stores)
    text = page.PAGE.read_text()
    assert "##" not in text
    assert text.count("not run.") == len(stores) + 1
    for store in stores:
        if store.name in DIGITS:
            for settings in tuning(store.benchmark):
                store.add(invented(settings, draw))
        rates = best_rates(store.benchmark, store.of_all())
        for seed in range(2):
            for settings in contest(store.benchmark, seed, rates):
                store.add(invented(settings, draw))
        store.add(invented(next(contest(store.benchmark, 2, rates)), draw))
    rates = best_rates(stores[0].benchmark, stores[0].of_all())
    for seed in range(TRANSPORT_SEEDS):
        for settings in transports(stores[0].benchmark, seed, rates):
            stores[0].add(invented(settings, draw))
    page.write_page(stores)
    text = page.PAGE.read_text()
    potara = [line for line in text.splitlines() if line.startswith("| `potara`")]
    assert len(potara) == len(stores) + len(DIGITS)
    assert potara[0].split(" | ")[4] == "2"
    runs = stores[0].of(stores[0].benchmark.run("potara", seed, BEST) for seed in range(2))
    mean = 100 * statistics.fmean(r["summary"]["mean"]["accuracy"]["personalized"] for r in runs)
    assert potara[0].split(" | ")[1].startswith(f"{mean:.1f} ± ")
    assert str(TUNING_SEED) in text
    assert "not run" not in text
    assert text.count("2 seeds; learning rate: one of a grid for each method") == len(DIGITS)
    assert "2 seeds; learning rate: the preset's for all" in text
    assert all(f"{rate:g}" in text for rate in LEARNING_RATES)
    assert text.count("The highest of the grid is best for potara, fedit, ") == len(DIGITS)
    assert (tmp_path / "images" / "results-digits-shared.png").is_file()


def test_the_page_is_what_the_stored_runs_give(tmp_path, monkeypatch):
    committed = page.PAGE.read_text()
    monkeypatch.setattr(page, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(page, "IMAGES", tmp_path / "images")
    page.write_page(
        [Store(one, STORED / "method-quality") for one in benchmarks(None, None).values()]
    )
    assert page.PAGE.read_text() == committed


def test_settings_of_a_benchmark_are_those_of_its_preset():
    for name, benchmark in benchmarks(None, None).items():
        flat = benchmark.settings.to_flat()
        assert from_flat(flat) == benchmark.settings
        assert flat["federation.fraction-evaluate"] == 0.0
        if name in DIGITS:
            assert flat["data.shift"] == name.removeprefix("digits-")
