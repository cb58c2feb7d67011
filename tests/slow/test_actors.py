"""The number of Ray actors decides how fast a run is, and nothing else."""

import os
from pathlib import Path

import pytest
from rich.console import Console

from potara_flwr.results.folder import read_results
from potara_flwr.run_config import from_flat
from potara_flwr.running.display import LiveDisplay
from potara_flwr.running.flower_runtime import run_with_flower

pytestmark = pytest.mark.slow


def test_one_actor_and_many_give_equal_bits(tiny, tmp_path: Path):
    cores = os.cpu_count() or 1
    runs = {}
    for cpus_per_client in {1, cores}:
        place = tmp_path / str(cpus_per_client)
        settings = from_flat(tiny({"lora.dropout": 0.1}).to_flat() | {"run.results": str(place)})
        with LiveDisplay(Console(quiet=True)) as display:
            run_with_flower(settings, display, cpus_per_client=cpus_per_client)
        adapters = {
            str(file.relative_to(place)): file.read_bytes()
            for file in place.rglob("adapter_model.safetensors")
        }
        runs[cpus_per_client] = (read_results(place)["digest"], adapters)
    assert runs[1] == runs[cores]
