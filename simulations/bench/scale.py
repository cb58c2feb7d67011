"""A federation of many clients, in this process; print what it took.

    python -m simulations.bench.scale FOLDER CLIENTS

``simulations.bench`` runs it, each size in a process of its own. FOLDER is one that
:func:`make_material` has filled. The output is JSON: ``seconds``, of processor time, for the whole
run; ``peak``, the largest resident memory of this process in MiB; and the bytes of the files that
every client adds to.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
from rich.console import Console

from potara_flwr.models.pretrained import find_model
from potara_flwr.results.folder import CHECKPOINT, RESULTS
from potara_flwr.run_config import from_flat
from potara_flwr.running.one_run import run
from potara_flwr.settings.groups import Value
from potara_flwr.tasks.digits import MEAN, STD, load_images, split_images
from simulations.bench.memory import peak_memory

SAMPLES = 6
"""Images of a client: two for training, two for calibration, two for testing."""
NOISE = 8.0
"""Grey values, one standard deviation: no two images are the same."""
REPORT = "report.html"


def make_material(folder: Path, clients: int) -> None:
    """Write a table of embedded images with noise, enough for so many clients, and the embedded
    model as one that takes such a table.
    """
    images, labels = load_images()
    at = split_images()[1]
    grey = ((images[at, 0] * STD + MEAN) * 255).rot90(dims=(-2, -1)).numpy()
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(at), clients * SAMPLES)
    rows = []
    for place in drawn:
        noisy = grey[place] + rng.normal(0, NOISE, grey[place].shape)
        file = io.BytesIO()
        PIL.Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "PNG")
        rows.append({"bytes": file.getvalue(), "path": None})
    columns = {"image": rows, "label": labels[at].numpy()[drawn].astype(str).tolist()}
    features = {"image": datasets.Image(), "label": datasets.Value("string")}
    table = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    table.to_parquet(folder / "images.parquet")
    shutil.copytree(find_model("digits-vit"), folder / "model")
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": 28, "width": 28}, "rescale_factor": 1 / 255,
        "image_mean": [MEAN], "image_std": [STD],
    }  # fmt: skip
    (folder / "model" / "preprocessor_config.json").write_text(json.dumps(processor))


def settings_of(folder: Path, clients: int) -> dict[str, Value]:
    """Return a short run of so many clients, which all train in each of two rounds."""
    return {
        "task.name": "image-classification",
        "task.model": str(folder / "model"),
        "data.path": str(folder / "images.parquet"),
        "data.train-split": f"train[:{clients * SAMPLES}]",
        "data.partition": "iid",
        "data.num-clients": clients,
        "calibration.samples": 2,
        "lora.target-modules": "q_proj",
        "federation.rounds": 2,
        "federation.fraction-evaluate": 0.0,
        "train.local-steps": 1,
        "train.batch-size": 2,
        "local.steps": 1,
        "merge.compare": False,
    }


def main() -> None:
    """Run the federation."""
    folder, clients = Path(sys.argv[1]), int(sys.argv[2])
    datasets.config.HF_DATASETS_CACHE = folder / f"cache-{clients}"
    with tempfile.TemporaryDirectory() as results:
        place = Path(results) / "run"
        settings = from_flat({**settings_of(folder, clients), "run.results": str(place)})
        start = time.process_time()
        run(settings, "in-process", Console(file=io.StringIO()))
        measured = {
            "seconds": time.process_time() - start,
            "peak": peak_memory(),
            "results": (place / RESULTS).stat().st_size,
            "report": (place / REPORT).stat().st_size,
            "checkpoint": (place / CHECKPOINT).stat().st_size,
        }
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
