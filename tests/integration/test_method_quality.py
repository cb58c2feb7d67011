"""docs/research/results.md: every method on a tiny federation, what is kept of it, and the page."""

import json
import random
import statistics
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from potara_flwr.merging.rules import RULES
from potara_flwr.methods import METHODS
from potara_flwr.run_config import from_flat
from potara_flwr.running.composition import compose_settings
from simulations.method_quality import __main__ as method_quality
from simulations.method_quality import page
from simulations.method_quality.stored import Store, compact, make
from simulations.method_quality.studies import (
    CIFAR10,
    DIGITS,
    FRESH,
    PAPER,
    ROUNDS,
    ROUNDS_BENCHMARK,
    SENTIMENT,
    TRANSPORT_METHODS,
    TRANSPORT_SEEDS,
    TRANSPORTS,
    TUNING_SEED,
    Benchmark,
    Materials,
    benchmarks,
    by_rounds,
    contest,
    transports,
    tuning,
)
from simulations.method_quality.tables import readme_table, rounds_of, rounds_to_equal

pytestmark = pytest.mark.integration

PLACES = [
    Materials(**{name: Path(f"/{place}") / file for name, file in {
        "sentiment_data": "s.parquet", "sentiment_model": "model",
        "cifar10_data": "c.parquet", "cifar10_model": "dinov2-small",
    }.items()})
    for place in "ab"
]  # fmt: skip
"""Data and models, on two machines."""


@pytest.fixture
def stores(tmp_path):
    """Empty stores of the real benchmarks."""
    return {one.name: Store(one, tmp_path / "stored") for one in benchmarks(PLACES[0]).values()}


def invented(settings, draw):
    """A run that never happened: the highest rate of any grid is the best."""
    best = settings.train.learning_rate / 0.1 + 0.5
    shown = {"accuracy": best + draw.uniform(-0.01, 0.01), "loss": 1.0}
    names = ("initial", "federated", "local", *RULES, "oracle")
    clients = [
        {
            "client": client,
            "num_test": 10,
            "optimizer_steps": 500,
            "personalized": shown,
            "accuracy": {name: 0.1 * at for at, name in enumerate(names)},
            "weights": dict.fromkeys(RULES, 0.25),
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
    benchmark = Benchmark("tiny", "Tiny", tiny({}))
    settings = benchmark.run("fedit_ft", seed=1, rate=3e-3)
    run = make(settings, tmp_path / "results")
    monkeypatch.setattr("simulations.method_quality.stored.run_job", None)
    assert make(settings, tmp_path / "results") == run
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
    assert again.of([settings]) == [older]


def method_steps(settings):
    """The steps of a client that takes part in every round."""
    return settings.federation.rounds * settings.train.local_steps + settings.local.steps


@pytest.mark.parametrize("name", [SENTIMENT, CIFAR10])
def test_a_path_of_another_machine_is_the_same_run(name):
    here, there, stored = (benchmarks(place)[name] for place in (*PLACES, Materials()))
    assert here.can_run
    assert not stored.can_run
    kept = [
        invented(one.run("potara", 0, 1e-3), random.Random(0))["config"] for one in (here, there)
    ]
    assert kept[0] == kept[1]


def test_potara_as_the_paper_has_the_settings_of_its_preset():
    paper = compose_settings(["experiment=paper"]).to_flat()
    ours = benchmarks(Materials())[CIFAR10].run(PAPER, 0, 1e-3).to_flat()
    for name in ("method", "local.start", "local.refit-share", "calibration.source",
                 "calibration.damping", "merge.rule", "merge.fallback"):  # fmt: skip
        assert ours[name] == paper[name]


def test_every_method_runs_at_its_best_rate_of_the_grid(stores):
    digits = stores[DIGITS[0]]
    draw = random.Random(0)
    assert set(digits.rates().values()) == {3e-3}
    runs = list(tuning(digits.benchmark))
    digits.add(invented(runs[-1], draw))
    assert set(digits.rates().values()) == {3e-3}  # a grid that is not complete tells nothing
    for settings in runs:
        digits.add(invented(settings, draw))
    best = max(digits.benchmark.rates)
    assert digits.rates() == dict.fromkeys(METHODS, best)
    wanted = list(method_quality.compared([digits], seeds=2))
    assert {settings.train.learning_rate for _, settings in wanted} == {best}
    of_rounds = sum(len(numbers) for numbers in ROUNDS.values())
    assert len(wanted) == 2 * (
        len(METHODS) + 2 + len(TRANSPORT_METHODS) * len(TRANSPORTS) + of_rounds
    )


def test_what_two_tables_want_is_made_once(stores, tmp_path, monkeypatch):
    monkeypatch.setattr(
        method_quality, "make", lambda settings, folder: invented(settings, random.Random(0))
    )
    digits = stores[ROUNDS_BENCHMARK]
    wanted = list(method_quality.compared([digits], seeds=1))
    preset = digits.benchmark.settings.federation.rounds
    twice = [settings for _, settings in wanted if settings.seed == FRESH[0]
             and settings.federation.rounds == preset and settings.method == "potara"]  # fmt: skip
    assert len(twice) == 2
    assert twice[0] == twice[1]
    submitted = []
    with ThreadPoolExecutor(1) as pool:
        submit = pool.submit
        monkeypatch.setattr(
            pool, "submit", lambda *args: submitted.append(args[1]) or submit(*args)
        )
        method_quality.make_lacking(wanted, tmp_path, pool)
    assert submitted.count(twice[0]) == 1
    assert all(settings in digits for _, settings in wanted)


def test_rounds_are_compared_at_seeds_that_chose_nothing(stores):
    store = stores[ROUNDS_BENCHMARK]
    rates = store.rates()
    assert rounds_of(store) == []
    for seed in FRESH[:2]:
        for method, rounds, settings in by_rounds(store.benchmark, seed, rates):
            assert settings.method == method
            steps = settings.federation
            assert (steps.baseline_rounds if method == "fedit" else steps.rounds) == rounds
            run = invented(settings, random.Random(0))
            # Every round is worth a point, local training five rounds, and Potara's merge three.
            reached = 0.3 + 0.01 * (rounds + {"potara": 8, "fedit_ft": 5, "fedit": 0}[method])
            run["summary"]["mean"]["accuracy"]["personalized"] = reached
            for client in run["clients"]:
                client["personalized"]["accuracy"] = reached
            store.add(run)
    rows = rounds_of(store)
    assert len(rows) == sum(len(numbers) for numbers in ROUNDS.values())
    assert all(set(row.group.runs) == set(FRESH[:2]) for row in rows)
    (gain,) = [row.over_seeds.mean for row in rows if row.over_seeds
               and row.group.settings == {"method": "fedit_ft", "rounds": 5}]  # fmt: skip
    assert gain == pytest.approx(-0.03)
    assert rounds_to_equal(rows)[1] == (
        "- For what 5 rounds of `potara` (43.0 %) reach, `fedit_ft` needs 10, `fedit` needs 20."
    )
    assert rounds_to_equal(rows)[3].endswith(
        "`fedit_ft` needs more than the 20 tried, `fedit` needs 50."
    )


def test_the_page_tells_of_every_method_and_only_of_whole_seeds(stores, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(page, "IMAGES", tmp_path / "images")
    draw = random.Random(0)
    page.write_page(list(stores.values()))
    text = page.PAGE.read_text()
    assert "##" not in text
    assert text.count("not run.") == len(stores) + 2
    gridded = [store for store in stores.values() if store.benchmark.rates]
    for store in stores.values():
        for settings in tuning(store.benchmark):
            store.add(invented(settings, draw))
        benchmark, rates = store.benchmark, store.rates()
        for seed in benchmark.seeds[:2]:
            for entry, settings in contest(benchmark, seed, rates).items():
                if (store.name, entry) != (CIFAR10, PAPER):
                    store.add(invented(settings, draw))
        if len(benchmark.seeds) > 2:
            store.add(invented(contest(benchmark, benchmark.seeds[2], rates)["potara"], draw))
    digits = stores[DIGITS[0]]
    for seed in range(TRANSPORT_SEEDS):
        for settings in transports(digits.benchmark, seed, digits.rates()):
            digits.add(invented(settings, draw))
    page.write_page(list(stores.values()))
    text = page.PAGE.read_text()
    potara = [line for line in text.splitlines() if line.startswith("| `potara`")]
    assert len(potara) == len(stores) + len(gridded)
    seeds = stores[CIFAR10].benchmark.seeds[:2]
    assert potara[0].split(" | ")[4] == "2"
    main = stores[CIFAR10].benchmark
    runs = stores[CIFAR10].of(main.run("potara", seed, max(main.rates)) for seed in seeds)
    mean = 100 * statistics.fmean(r["summary"]["mean"]["accuracy"]["personalized"] for r in runs)
    assert potara[0].split(" | ")[1].startswith(f"{mean:.1f} ± ")
    assert str(TUNING_SEED) in text
    assert (
        f"2 seeds (10, 11); learning rate: one of a grid for each method; not run: {PAPER}" in text
    )
    assert text.count("2 seeds (0, 1); learning rate: one of a grid for each method") == len(DIGITS)
    assert "2 seeds (0, 1); learning rate: the preset's for all" in text
    assert text.count("The highest of the grid is best for potara, fedit") == len(gridded)
    assert (tmp_path / "images" / "results-digits-shared.png").is_file()
    # Of nine adapters and rules, each a tenth better than the one before, the oracle is the last.
    assert text.count("| `uniform` | 60.0 ± 0.0 | 30.00 | 100 | 0.25 |") == len(stores)


def test_readme_shows_the_methods_of_the_main_benchmark_on_all(stores):
    draw = random.Random(0)
    for store in stores.values():
        rates = store.rates()
        for seed in store.benchmark.seeds[:2]:
            for settings in contest(store.benchmark, seed, rates).values():
                store.add(invented(settings, draw))
    lines = readme_table(
        list(stores.values()), page.README_TITLES, page.README_METHODS
    ).splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines[2:]]
    assert {name for name, *_ in rows} == {f"`{entry}`" for entry in page.README_METHODS}
    main = [float(cell.partition(" ")[0]) for _, cell, *_ in rows if cell != "–"]
    assert main == sorted(main, reverse=True)
    assert [cell for _, cell, *_ in rows[len(main) :]] == ["–"] * (len(rows) - len(main))
    (paper,) = [row for row in rows if PAPER in row[0]]
    assert paper[2:] == ["–", "–", "–"]  # run on the main benchmark alone


def test_the_pages_are_what_the_stored_runs_give(tmp_path, monkeypatch):
    text, readme = page.PAGE.read_text(), page.README.read_text()
    copy = tmp_path / "README.md"
    copy.write_text(readme)
    monkeypatch.setattr(page, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(page, "README", copy)
    monkeypatch.setattr(page, "IMAGES", tmp_path / "images")
    monkeypatch.setattr(method_quality, "make", None)
    assert method_quality.main(["--only", CIFAR10]) == 0  # what makes no run
    assert page.PAGE.read_text() == text
    assert copy.read_text() == readme


def test_settings_of_a_benchmark_are_those_of_its_preset():
    for name, benchmark in benchmarks(Materials()).items():
        flat = benchmark.settings.to_flat()
        assert from_flat(flat) == benchmark.settings
        assert flat["federation.fraction-evaluate"] == 0.0
        if name in DIGITS:
            assert flat["data.shift"] == name.removeprefix("digits-")
