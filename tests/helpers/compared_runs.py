"""Stored runs that never happened, of many settings, to be compared."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

from results_example import example_results


def store_run(
    folder: Path, settings: dict[str, Any], accuracies: dict[int, float], **changes: Any
) -> Path:
    """Store a run with flat ``settings`` (``lora.rank``) and the accuracy of each client."""
    results = copy.deepcopy(example_results(clients=len(accuracies), rounds=2))
    for name, value in ({"data.num-clients": 8} | settings).items():
        group, _, key = name.rpartition(".")
        (results["config"][group] if group else results["config"])[key] = value
    for row, (client, accuracy) in zip(results["clients"], accuracies.items(), strict=True):
        row["client"] = client
        row["personalized"] |= {"accuracy": accuracy, "loss": 1 - accuracy}
    mean = sum(accuracies.values()) / len(accuracies)
    results["summary"]["mean"]["accuracy"]["personalized"] = mean
    results["summary"]["mean"]["loss"]["personalized"] = 1 - mean
    results["digest"] = repr(sorted(accuracies.items()))
    results |= changes
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def store_sweep(folder: Path, methods: tuple[str, ...], ranks=(2, 4, 8), alphas=(0.1, 0.5)) -> None:
    """Store three seeds of each combination, with plausible numbers."""
    for m, method in enumerate(methods):
        for rank in ranks:
            for alpha in alphas:
                for seed in (1, 2, 3):
                    draw = random.Random(f"{method}{rank}{alpha}{seed}")
                    level = 0.6 + 0.03 * m + 0.02 * rank**0.5 + 0.1 * alpha
                    noise = random.Random(seed).gauss(0, 0.01)
                    accuracies = {k: level + noise + draw.gauss(0, 0.02) for k in range(8)}
                    num_bytes = round(1e6 * rank * (0.5 if method == "ffa-lora" else 1 + 0.05 * m))
                    store_run(
                        folder / f"{method}-{rank}-{alpha}-{seed}",
                        {"method": method, "lora.rank": rank, "data.alpha": alpha, "seed": seed},
                        accuracies,
                        communication={"bytes_up": num_bytes, "bytes_down": num_bytes},
                    )
