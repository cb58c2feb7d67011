"""Take every architecture through a run; writes docs/reference/models.md.

    python -m simulations.zoo
    python -m simulations.zoo --kind image --only resnet clip --again

How far each came is kept in ``docs/research/data/zoo``, and the page is written from that in a
second. What lacks there, or works but for its card, which was not executed, is walked first, some a
process (hours of a core for all of them). A killed program goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import datasets
import torch
import transformers

from simulations.zoo.catalogue import Class, classes
from simulations.zoo.journey import Journey, walk
from simulations.zoo.page import is_whole, store, stored, write_page

A_PROCESS = 32
"""Architectures walked in one process."""
MOST_SECONDS = 300
"""Of a walk."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Walk what lacks, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m simulations.zoo", description=__doc__)
    parser.add_argument("--kind", choices=("image", "text", "causal"), help="of these alone")
    parser.add_argument("--only", nargs="*", default=[], help="model types")
    parser.add_argument("--again", action="store_true", help="also what is stored")
    parser.add_argument("--walk", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.walk is not None:
        _walk_here(options.walk)
        return
    known = stored()
    wanted = [
        one
        for one in classes()
        if options.kind in (None, one.kind)
        and (not options.only or one.model_type in options.only)
        and (options.again or not is_whole(known.get(":".join(one))))
    ]
    for start in range(0, len(wanted), A_PROCESS):
        _walk_apart(wanted[start : start + A_PROCESS])
        write_page()
    write_page()


def _walk_apart(wanted: Sequence[Class]) -> None:
    """Walk architectures in a process of their own, and store how far each came."""
    left = list(wanted)
    while left:
        command = [sys.executable, "-m", "simulations.zoo", "--walk", *map(":".join, left)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                journey = Journey(**json.loads(line))
                store(journey)
                print(journey.outcome, journey.model_type, journey.class_name, journey.words)
                left = left[1:]
        if process.wait() and left:
            kind, model_type, class_name = left.pop(0)
            store(Journey(kind, model_type, class_name, "fails", "its process was killed"))


def _walk_here(names: Sequence[str]) -> None:
    """Walk architectures one after the other; print how far each came."""
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)

    def too_late(_: int, __: FrameType | None) -> None:
        raise TimeoutError(f"it takes more than {MOST_SECONDS} seconds")

    signal.signal(signal.SIGALRM, too_late)
    with tempfile.TemporaryDirectory() as place:
        datasets.config.HF_DATASETS_CACHE = Path(place) / "cache"
        for name in names:
            kind, model_type, class_name = name.split(":")
            signal.alarm(MOST_SECONDS)
            # A folder of its own: a process keeps the model of equal settings.
            journey = walk(kind, model_type, class_name, Path(place) / class_name)  # type: ignore[arg-type]
            signal.alarm(0)
            print(json.dumps(journey.to_json()), flush=True)


if __name__ == "__main__":
    main()
