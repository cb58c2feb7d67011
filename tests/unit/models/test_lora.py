"""Adapters: one seed, one model for every rank, folders that plain peft loads."""

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForImageClassification

from potara_flwr.core.errors import SettingsError
from potara_flwr.merging.segment import segment_between
from potara_flwr.models.adapter import kind_of, lora_pairs
from potara_flwr.models.lora import LoraModel, load_adapter, save_adapter
from potara_flwr.run_config import from_flat
from potara_flwr.tasks.workbench import Workbench
from potara_flwr.training.local_steps import train


def other_adapter(bench, seed=0):
    adapter, _ = train(
        bench.model, bench.task, bench.model.initial, bench.client(seed).train,
        bench.settings.train, steps=3, seed=seed, who="test",
    )  # fmt: skip
    return adapter


def test_initial_adapter_holds_factors_and_head_and_leaves_the_model_as_it_is(bench):
    adapter = bench.model.initial
    pairs = lora_pairs(adapter)
    assert len(pairs) == 4  # two layers, q and v
    for a, b in pairs:
        assert adapter[a].shape == (2, 16)
        assert adapter[b].shape == (16, 2)
        assert not adapter[b].any()
        assert (kind_of(a), kind_of(b)) == ("A", "B")
    heads = [name for name in adapter if kind_of(name) == "head"]
    assert all("classifier" in name for name in heads)
    assert len(heads) == 2
    samples = bench.client(0).test
    base = AutoModelForImageClassification.from_pretrained(bench.settings.task.model)
    with torch.no_grad():
        expected = base(pixel_values=samples["pixel_values"]).logits
        torch.testing.assert_close(bench.model(adapter, samples), expected)


def test_initial_adapter_depends_on_the_seed_alone(tiny):
    torch.manual_seed(1)
    first = Workbench(tiny()).model.initial
    torch.manual_seed(2)
    again, other = Workbench(tiny()).model.initial, Workbench(tiny({"seed": 1})).model.initial
    a = lora_pairs(first)[0][0]
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first[a], other[a])


def test_running_one_adapter_leaves_nothing_for_the_next(bench):
    samples, adapter = bench.client(0).test, other_adapter(bench)
    before = bench.model(bench.model.initial, samples)
    changed = bench.model(adapter, samples)
    assert not torch.allclose(before, changed)
    assert torch.equal(bench.model(bench.model.initial, samples), before)


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("space", ["factors", "delta"])
def test_plain_peft_loads_a_saved_merge_with_the_same_logits(tiny, tmp_path, space, rslora):
    bench = Workbench(tiny({"lora.rslora": rslora}))
    scaling = pytest.approx(4 / 2**0.5 if rslora else 4 / 2)
    assert all(s == scaling for s in bench.model.scaling.values())
    merged = segment_between(other_adapter(bench, 0), other_adapter(bench, 1), space).at(0.3)
    save_adapter(tmp_path, merged, bench.model.config, bench.settings.task.model)

    base = AutoModelForImageClassification.from_pretrained(bench.settings.task.model)
    loaded = PeftModel.from_pretrained(base, str(tmp_path)).eval()

    samples = bench.client(0).test
    with torch.no_grad():
        logits = loaded(pixel_values=samples["pixel_values"]).logits
        torch.testing.assert_close(logits, bench.model(merged, samples))
    assert loaded.peft_config["default"].r == (4 if space == "delta" else 2)
    assert all(torch.equal(tensor, merged[name]) for name, tensor in load_adapter(tmp_path).items())


def test_saving_twice_gives_the_same_files(bench, tmp_path):
    for name in ("one", "two"):
        save_adapter(tmp_path / name, bench.model.initial, bench.model.config, "base")
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_whoever_may_read_the_config_may_read_the_weights(bench, tmp_path):
    save_adapter(tmp_path, bench.model.initial, bench.model.config, "base")
    config, weights = tmp_path / "adapter_config.json", tmp_path / "adapter_model.safetensors"
    assert weights.stat().st_mode == config.stat().st_mode


@pytest.mark.parametrize("targets", ["query,v_proj", "proj"])
def test_a_target_module_the_model_lacks_lists_the_ones_it_has(bench, targets):
    settings = from_flat({"lora.target-modules": targets})
    base = bench.task.load_base_model()
    with pytest.raises(SettingsError, match=r"it has .*k_proj.*q_proj") as error:
        LoraModel(base, settings.lora, ("classifier",), seed=0)
    assert "\n" not in str(error.value)
