"""The merge-quality benchmark on a tiny model: the apps' own adapters, every rule, the page."""

from dataclasses import replace

import pytest
import torch

from potara_flwr.in_process import run_in_process
from potara_flwr.merging.rules import RULES
from potara_flwr.methods import METHODS
from potara_flwr.methods.local_adapter import train_local
from potara_flwr.models.lora import load_adapter
from potara_flwr.results.folder import read_results
from potara_flwr.run_config import from_flat
from potara_flwr.tasks.workbench import Workbench
from simulations.merge_quality import __main__ as merge_quality
from simulations.merge_quality import families, measures, page, statistics
from simulations.merge_quality.candidates import CANDIDATES, update_gradients
from simulations.merge_quality.families import Family, train_family

pytestmark = pytest.mark.integration


@pytest.fixture
def family(tiny):
    """A small federation with adapters after one and two rounds."""

    def build(group="shared", seed=0, **overrides):
        settings = tiny(overrides).to_flat()
        own = {"seed", "local.start", "federation.rounds", "federation.transport", "run.results",
               "calibration.source"}  # fmt: skip
        chosen = {name: value for name, value in settings.items() if name not in own}
        return Family(group, seed, (1, 2), tuple(chosen.items()), kept_out=True)

    return build


@pytest.mark.parametrize("start", ["cold", "warm"])
@pytest.mark.parametrize("rounds", [1, 2])
def test_a_family_holds_the_bits_of_the_apps(family, tmp_path, start, rounds):
    one = family()
    adapters = train_family(one, tmp_path / "family")
    settings = one.settings(start, rounds).to_flat() | {"run.results": str(tmp_path / "run")}
    folder = run_in_process(from_flat(settings))
    pairs = [(adapters.federated(rounds), load_adapter(folder / "federated"))]
    for client in range(3):
        local = load_adapter(folder / "clients" / str(client) / "local")
        pairs.append((adapters.local(start, rounds, client), local))
    for ours, theirs in pairs:
        assert set(ours) == set(theirs)
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_measures_say_what_the_apps_say(family, tmp_path):
    one = family()
    cases = measures.measure_family(one, train_family(one, tmp_path / "f"))
    assert len(cases) == 3 * 2 * 2
    settings = one.settings("warm", 2).to_flat() | {"run.results": str(tmp_path / "run")}
    results = read_results(run_in_process(from_flat(settings)))
    for client in results["clients"]:
        (case,) = [
            case for case in cases
            if (case["client"], case["start"], case["rounds"]) == (client["client"], "warm", 2)
        ]  # fmt: skip
        assert set(case["rules"]) >= {*RULES, *CANDIDATES}
        for rule in RULES:
            assert case["rules"][rule]["weight"] == pytest.approx(client["weights"][rule])
            assert case["rules"][rule]["accuracy"] == pytest.approx(client["accuracy"][rule])
            assert case["rules"][rule]["loss"] == pytest.approx(client["loss"][rule], rel=1e-5)
        kept = case["rules"]["excess-loss + fallback"]
        assert kept["accuracy"] == pytest.approx(client["personalized"]["accuracy"])
        assert kept["fell_back"] == bool(client["personalized"]["fallback"])
        assert statistics.score(case, "local") == pytest.approx(client["accuracy"]["local"])
        assert statistics.score(case, "oracle") == pytest.approx(client["accuracy"]["oracle"])
        assert case["oracle_of_halves"] <= statistics.score(case, "oracle") + 1e-9
        assert 0 <= case["tuned"] <= 1
        assert case["initial"] == pytest.approx(client["accuracy"]["initial"])
        assert 0 <= case["kept_out"] <= 1


def test_the_baselines_are_what_they_say(family, tmp_path):
    one = family()
    adapters = train_family(one, tmp_path / "f")
    bench = Workbench(one.settings(refit=False))
    data, federated = bench.client(1), adapters.federated(2)
    every = replace(data, train=data.train_and_calibration)
    kept_out, tuned = (
        train_local(METHODS["potara"].client(bench, samples), federated)[0]
        for samples in (data, every)
    )
    for ours, theirs in ((adapters.kept_out(2, 1), kept_out), (adapters.tuned(2, 1), tuned)):
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert adapters.kept_out(1, 1) is None


def test_what_is_stored_is_not_made_again_and_not_taken_for_another(family, tmp_path, monkeypatch):
    one, file = family(), tmp_path / "stored" / "f.json.gz"
    measures.make(one, tmp_path / "adapters", file)
    first = measures.stored(one, file)
    assert len(first) == 3 * 2 * 2
    before = file.read_bytes()
    measures.store(first, one, file)
    assert file.read_bytes() == before
    monkeypatch.setattr(families, "_train", None)
    train_family(one, tmp_path / "adapters" / one.name)
    other = family(**{"lora.rank": 3})
    with pytest.raises(SystemExit, match=r"made with lora\.rank=2, not 3"):
        measures.stored(other, file)
    with pytest.raises(SystemExit, match=r"made with lora\.rank=2, not 3"):
        train_family(other, tmp_path / "adapters" / one.name)
    monkeypatch.setattr(measures, "VERSION", 99)
    assert measures.stored(one, file) is None


def test_the_page_is_what_the_stored_measures_give(tmp_path, monkeypatch):
    text = page.PAGE.read_text()
    monkeypatch.setattr(page, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(page, "IMAGES", tmp_path / "images")
    monkeypatch.setattr(merge_quality, "make", None)
    assert merge_quality.main([]) == 0
    assert (tmp_path / "page.md").read_text() == text


def test_the_page_tells_of_every_rule_and_regime(family, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(page, "IMAGES", tmp_path / "images")
    cases = []
    for seed in range(2):
        for group in ("shared", "conflicting", "sentiment", "one-class"):
            one = family(group, seed, **{"data.shift": "shared"})
            cases += measures.measure_family(one, train_family(one, tmp_path / one.name))
    page.write_page(cases)
    text = (tmp_path / "page.md").read_text()
    for rule in (*RULES, *CANDIDATES):
        assert f"| {rule} |" in text or f"| **{rule}** |" in text
    assert "| sentiment | warm | 20 | 2 |" in text
    assert "nan" not in text.replace("nanmean", "")
    names = {file.name for file in (tmp_path / "images").iterdir()}
    assert names == {f"merge-quality-{name}.png" for name in ("regimes", "fine-tuning", "weights")}


def test_gradients_of_the_update_are_those_of_the_factors(family, tmp_path):
    # With ΔW = s·B·A: dL/dB = s · dL/dΔW · Aᵀ and dL/dA = s · Bᵀ · dL/dΔW.
    one = family()
    adapters = train_family(one, tmp_path / "f")
    bench = Workbench(one.settings())
    captured = {}

    def capture(case):
        captured["case"] = case
        return 0.5

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measures, "CANDIDATES", {"capture": capture})
        measures._measure(one, bench, adapters, "warm", 2, 0)
    case = captured["case"]
    adapter = case.segment.local
    updates = update_gradients(case, adapter)
    checked = 0
    for name, gradient in updates.items():
        stem = name.removesuffix(".base_layer")
        (a,) = [key for key in adapter if stem in key and "lora_A" in key]
        b = a.replace("lora_A", "lora_B")
        s = bench.model.scaling[a]
        torch.testing.assert_close(
            s * gradient @ adapter[a].T, case.at_local[b], rtol=1e-4, atol=1e-6
        )
        torch.testing.assert_close(
            s * adapter[b].T @ gradient, case.at_local[a], rtol=1e-4, atol=1e-6
        )
        checked += 1
    assert checked == 4
