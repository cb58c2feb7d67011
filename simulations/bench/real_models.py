"""What a client's phases cost on pretrained models: each phase in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Mapping
from typing import NamedTuple

from potara_flwr.settings.groups import Value
from simulations.bench.rows import Row

STEPS_OF_LOCAL_TRAINING = 100
SCORES = 4
"""Adapters that are scored without a comparison: initial, federated, local and personalized."""
TEST_IMAGES = 100
TASKS = {4: "movie_recommendation", 2: "movie_dialog_same_or_different"}
"""Options of a question → the task whose questions all have as many."""


class Measured(NamedTuple):
    """What a phase took."""

    seconds: float
    """Of processor time."""
    peak: float
    """Of resident memory, MiB."""


def phase(name: str, client: int, settings: Mapping[str, Value]) -> Measured:
    """Take a phase (:data:`simulations.bench.one_phase.PHASES`) in a process of its own."""
    process = subprocess.run(
        [
            sys.executable, "-m", "simulations.bench.one_phase", name, str(client),
            json.dumps(dict(settings)),
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    return Measured(**json.loads(process.stdout.splitlines()[-1]))


def questions(args: Namespace) -> dict[str, Value]:
    """Return settings of multiple choice on real questions: rank 8 on q and v, batches of 4."""
    return {
        "task.name": "multiple-choice",
        "task.model": str(args.language_model),
        "data.path": str(args.language_data),
        "data.options-column": "options",
        "data.partition": "iid",
        "data.num-clients": 30,
        "lora.rank": 8,
        "train.batch-size": 4,
        "calibration.samples": 30,
    }


def weight_rows(args: Namespace) -> list[Row]:
    """Measure the weight phase over training, on questions with 2 to 4 options."""
    memory, time = [], []
    for _ in range(args.repeats):
        step, weight = (phase(name, 0, questions(args)) for name in ("train", "weigh"))
        memory.append(weight.peak / step.peak)
        time.append(weight.seconds / step.seconds)
    what = "weight phase, SmolLM2-135M, 30 questions of 2 to 4 options, batches of 4"
    return [
        Row(f"{what}: peak memory over that of training", memory, 1.05),
        Row(
            f"{what}: processor seconds over those of a training step",
            time,
            12,
            "7.5 batches go forward and backward at both adapters and forward at the merge, which "
            "the diagnosis asks for, and three questions are computed both ways to see whether the "
            "model keeps samples apart",
        ),
    ]


def prompt_rows(args: Namespace) -> list[Row]:
    """Measure training with one row a question over a row for every option."""
    rows = []
    for options, aim in ((4, 1 / 3), (2, 1 / 1.9)):
        ratios = []
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
            lines = args.language_data.read_text().splitlines(keepends=True)
            file.writelines(at for at in lines if json.loads(at)["task"] == TASKS[options])
            file.flush()
            settings = {**questions(args), "data.path": file.name, "data.num-clients": 3}
            for _ in range(args.repeats):
                shared, apart = (phase(name, 0, settings) for name in ("train", "train-apart"))
                ratios.append(shared.seconds / apart.seconds)
        rows.append(
            Row(
                f"training step, SmolLM2-135M, {options} options: the prompt once, over once for "
                "every option",
                ratios,
                round(aim, 3),
                "short prompts: the options' own tokens are computed either way",
            )
        )
    return rows


def image_rows(args: Namespace) -> list[Row]:
    """Measure personalization without a comparison over its local training, on a ViT-S."""
    settings: dict[str, Value] = {
        "task.name": "image-classification",
        "task.model": str(args.image_model),
        "data.path": str(args.image_data),
        "data.num-clients": 4,
        "data.test-samples": TEST_IMAGES,
        "data.train-samples": 200,
        "train.batch-size": 16,
    }
    ratios = []
    for _ in range(args.repeats):
        step, weight, score = (phase(name, 0, settings) for name in ("train", "weigh", "score"))
        training = STEPS_OF_LOCAL_TRAINING * step.seconds
        ratios.append((training + weight.seconds + SCORES * score.seconds) / training)
    return [
        Row(
            f"personalization, DINOv2-S, {TEST_IMAGES} test images, merge.compare=false: processor "
            f"seconds over those of its {STEPS_OF_LOCAL_TRAINING} local steps",
            ratios,
            1.1,
            f"{SCORES} adapters are scored, each by {TEST_IMAGES} forward passes",
        )
    ]
