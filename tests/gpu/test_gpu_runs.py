"""Whole runs on a GPU, and two clients on one."""

import json
import math

import pytest

from potara_flwr.in_process import run_in_process
from potara_flwr.run_config import from_flat
from potara_flwr.running.composition import compose_settings
from simulations.bench.gpu import train_in_processes
from simulations.bench.parity import TOLERANCES, distance, flat

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("preset", ["commonsense-llama-tiny", "flan-llama-tiny"])
def test_the_tiny_variants_of_the_language_presets_run(language, device, tmp_path, preset):
    settings = from_flat(
        {
            **compose_settings([f"experiment={preset}"]).to_flat(),
            **language,
            "model.device": str(device),
            "run.results": str(tmp_path / "run"),
        }
    )
    run_in_process(settings)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert len(results["clients"]) == settings.data.num_clients
    for client in results["clients"]:
        assert math.isfinite(client["personalized"]["loss"])
        assert 0.0 <= client["personalized"]["weight"] <= 1.0


def test_two_clients_at_once_train_as_each_alone(material, device):
    settings = material()
    at_once = train_in_processes(settings, device, [0, 1])
    for number, (adapter, _) in enumerate(at_once):
        ((alone, _),) = train_in_processes(settings, device, [number])
        assert distance(flat(adapter), flat(alone)) <= TOLERANCES["trained adapter"]
