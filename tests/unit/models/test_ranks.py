"""Ranks and alphas of some modules' own: run, merged, cut, averaged and saved as peft has them."""

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from transformers import AutoModelForImageClassification

from potara_flwr.core.errors import SettingsError
from potara_flwr.merging.segment import deltas, segment_between, truncate
from potara_flwr.models.adapter import kind_of, lora_pairs
from potara_flwr.models.lora import load_adapter, save_adapter
from potara_flwr.models.peft_adapter import read_peft_adapter
from potara_flwr.models.ranks import layer_of
from potara_flwr.run_config import from_flat
from potara_flwr.strategies.averages import exact_average
from potara_flwr.tasks.workbench import Workbench

PATTERNS = {
    "lora.rank": 2,
    "lora.alpha": 6.0,
    "lora.rank-pattern": "q_proj=3,layers.1.attention.v_proj=1",
    "lora.alpha-pattern": "v_proj=2.5",
}


@pytest.fixture
def workbench(tiny):
    return lambda overrides=None: Workbench(tiny({**PATTERNS, **(overrides or {})}))


def other(bench, seed):
    """Return an adapter of these shapes whose updates are not 0."""
    draw = torch.Generator().manual_seed(seed)
    return {
        name: t + 0.3 * torch.randn(t.shape, generator=draw)
        for name, t in bench.model.initial.items()
    }


def base_of(bench):
    return AutoModelForImageClassification.from_pretrained(bench.settings.task.model)


def ranks_of(adapter):
    return {layer_of(a): adapter[a].shape[0] for a, _ in lora_pairs(adapter)}


def in_peft(bench, folder):
    """Return the logits of a saved adapter on the plain base model."""
    model = PeftModel.from_pretrained(base_of(bench), str(folder)).eval()
    with torch.no_grad():
        return model(pixel_values=bench.client(0).test["pixel_values"]).logits


@pytest.mark.parametrize("rslora", [False, True])
def test_layers_have_the_ranks_and_scalings_that_peft_gives_them(workbench, rslora):
    bench = workbench({"lora.rslora": rslora})
    config = LoraConfig(
        r=2, lora_alpha=6, target_modules=["q_proj", "v_proj"], use_rslora=rslora,
        rank_pattern={"q_proj": 3, "layers.1.attention.v_proj": 1}, alpha_pattern={"v_proj": 2.5},
        modules_to_save=["classifier"],
    )  # fmt: skip
    plain = get_peft_model(base_of(bench), config).eval()
    ranks, scaling = ranks_of(bench.model.initial), bench.model.scaling
    assert sorted(ranks.values()) == [1, 2, 3, 3]
    for a, _ in lora_pairs(bench.model.initial):
        module = plain.get_submodule(f"base_model.model.{layer_of(a)}")
        assert module.r["default"] == ranks[layer_of(a)]
        assert module.scaling["default"] == pytest.approx(scaling[a])
    adapter, samples = other(bench, 0), bench.client(0).test
    set_peft_model_state_dict(plain, adapter)
    with torch.no_grad():
        logits = plain(pixel_values=samples["pixel_values"]).logits
        torch.testing.assert_close(bench.model(adapter, samples), logits)


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("form", ["factors", "delta", "svd"])
def test_merges_are_exact_and_plain_peft_loads_them_with_equal_logits(
    workbench, tmp_path, form, rslora
):
    bench = workbench({"lora.rslora": rslora})
    one, two, s = other(bench, 0), other(bench, 1), bench.model.scaling
    merged = segment_between(one, two, "factors" if form == "factors" else "delta").at(0.3)
    ranks = ranks_of(one)
    if form == "delta":
        wanted, first, second = deltas(merged, s), deltas(one, s), deltas(two, s)
        for a, update in wanted.items():
            torch.testing.assert_close(update, 0.3 * first[a] + 0.7 * second[a])
        assert ranks_of(merged) == {layer: 2 * rank for layer, rank in ranks.items()}
    if form == "svd":
        merged, error = truncate(merged, {a: one[a].shape[0] for a, _ in lora_pairs(one)})
        assert 0 < error < 1
        assert ranks_of(merged) == ranks
    save_adapter(tmp_path, merged, bench.model.config, bench.settings.task.model)
    with torch.no_grad():
        torch.testing.assert_close(
            in_peft(bench, tmp_path), bench.model(merged, bench.client(0).test)
        )
    assert all(torch.equal(tensor, merged[name]) for name, tensor in load_adapter(tmp_path).items())


def test_a_saved_adapter_is_read_with_its_scalings_and_evened_for_servers(workbench, tmp_path):
    bench = workbench()
    adapter = other(bench, 0)
    save_adapter(tmp_path, adapter, bench.model.config, bench.settings.task.model)
    read = read_peft_adapter(tmp_path)
    assert read.scaling == pytest.approx(bench.model.scaling)
    even, told = read.evened()
    assert set(ranks_of(even).values()) == {told["r"]} == {3}
    wanted, got = deltas(adapter, read.scaling), deltas(even, told["lora_alpha"] / told["r"])
    for a, update in wanted.items():
        torch.testing.assert_close(got[a], update)


def test_without_patterns_the_configuration_says_one_rank_and_alpha(tiny, tmp_path):
    bench = Workbench(tiny())
    save_adapter(tmp_path, bench.model.initial, bench.model.config, "base")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (2, 4.0)
    assert config["rank_pattern"] == config["alpha_pattern"] == {}


def test_the_exact_average_keeps_every_layers_rank(workbench):
    bench = workbench()
    updates = [{n: t.numpy() for n, t in other(bench, seed).items()} for seed in (0, 1, 2)]
    averaged, error = exact_average(updates, [1, 1, 1], updates[0])
    assert {n: a.shape for n, a in averaged.items()} == {n: a.shape for n, a in updates[0].items()}
    assert 0 < error < 1
    same, nothing = exact_average(updates[:1] * 3, [1, 2, 3], updates[0])
    one = {name: torch.from_numpy(array) for name, array in same.items()}
    for a, update in deltas(other(bench, 0), bench.model.scaling).items():
        torch.testing.assert_close(deltas(one, bench.model.scaling)[a], update)
    assert nothing < 1e-6
    assert all(kind_of(name) in "AB" or "classifier" in name for name in averaged)


def test_a_name_that_no_adapted_module_has_lists_those_there_are(workbench):
    for name in ("rank", "alpha"):
        with pytest.raises(
            SettingsError, match=f"lora.{name}-pattern names 'k_proj', .* q_proj, v_proj"
        ):
            _ = workbench({f"lora.{name}-pattern": "q_proj=3,k_proj=3"}).model


@pytest.mark.parametrize(
    "text", ["q_proj", "q_proj=", "=3", "q_proj=0", "q_proj=-1", "(=2", "a=1,"]
)
def test_what_is_no_pattern_says_what_one_is(text):
    for name in ("rank", "alpha"):
        with pytest.raises(SettingsError, match=f"setting lora.{name}-pattern is .* q_proj=16"):
            from_flat({f"lora.{name}-pattern": text})


def test_a_rank_is_a_whole_number_and_an_alpha_need_not_be():
    assert from_flat({"lora.alpha-pattern": "q_proj=2.5, v=4"}).lora.module_alphas == {
        "q_proj": 2.5, "v": 4.0
    }  # fmt: skip
    with pytest.raises(SettingsError, match="a rank from 1 each"):
        from_flat({"lora.rank-pattern": "q_proj=2.5"})
