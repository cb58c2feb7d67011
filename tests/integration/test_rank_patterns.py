"""Whole runs whose modules have ranks and alphas of their own, and what they leave behind."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel
from recording import finished
from transformers import AutoModelForImageClassification

from potara_flwr.export import export_results
from potara_flwr.models.adapter import lora_pairs
from potara_flwr.models.lora import load_adapter
from potara_flwr.tasks.workbench import Workbench

pytestmark = pytest.mark.integration


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(
    ("overrides", "ranks"),
    [
        ({"merge.space": "delta"}, {2: 1, 4: 1, 6: 2}),
        ({"merge.space": "delta", "merge.svd": True, "lora.rslora": True}, {1: 1, 2: 1, 3: 2}),
        ({"method": "pf2lora"}, {2: 1, 3: 1, 5: 2}),
    ],
)
def test_what_a_run_saves_scores_in_plain_peft_what_the_results_say(
    tiny, tmp_path, overrides, ranks
):
    settings = tiny({
        "lora.rank-pattern": "q_proj=3,layers.1.attention.v_proj=1",
        "lora.alpha-pattern": "v_proj=2.5", "federation.aggregation": "exact",
        "merge.fallback": False, "data.test-samples": 20,
        "run.results": str(tmp_path / "run"), **overrides,
    })  # fmt: skip
    _, folder, results, _ = finished(settings)
    assert all(at["aggregation_error"] < 1 for at in results["rounds"])
    export_results(folder, tmp_path / "served")
    bench = Workbench(settings)
    for entry in results["clients"]:
        test = bench.client(entry["client"]).test
        place = folder / "clients" / str(entry["client"])
        saved = load_adapter(place)
        found = [saved[a].shape[0] for a, _ in lora_pairs(saved)]
        assert {rank: found.count(rank) for rank in found} == ranks
        served = tmp_path / "served" / f"client-{entry['client']}"
        for at, ends in ((place, set(ranks)), (served, {max(ranks)})):
            adapter = load_adapter(at)
            assert {adapter[a].shape[0] for a, _ in lora_pairs(adapter)} == ends
            base = AutoModelForImageClassification.from_pretrained(settings.task.model)
            model = PeftModel.from_pretrained(base, str(at)).eval()
            with torch.no_grad():
                logits = model(pixel_values=test["pixel_values"]).logits
                torch.testing.assert_close(logits, bench.model(saved, test))
            right = (logits.argmax(-1) == test["labels"]).float().mean()
            assert right == pytest.approx(entry["personalized"]["accuracy"])
