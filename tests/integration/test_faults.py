"""Real processes die, in the midst of everything; a real disk is full."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from own_processes import HANGING

from potara_flwr.core.storage import load_record
from potara_flwr.results.folder import CHECKPOINT, RESULTS, read_results
from simulations.faults.full_disk import LIMIT, full_disk, mounting_allowed
from simulations.faults.local import (
    Save,
    finish,
    kill_again_and_again,
    next_attempt,
    run_until_save,
    start,
)
from simulations.faults.subject import adapters_here, settings_of

pytestmark = pytest.mark.integration

PATIENT = {"run.report": False, "federation.timeout": float(HANGING)}
"""No client is given up because the machine is busy."""
SETTINGS = settings_of(PATIENT | {"federation.transport": "int8"})
"""With int8 clients keep something between rounds."""


def undisturbed(folder, settings):
    """Return every adapter of a run that nothing happens to."""
    finish(settings, folder / "run", folder / "log")
    adapters = adapters_here(folder / "run")
    assert len(adapters) == 5
    return adapters


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return undisturbed(tmp_path_factory.mktemp("whole"), SETTINGS)


@pytest.fixture(scope="module")
def whole_of_defaults(tmp_path_factory):
    """The same as the run on a full disk."""
    return undisturbed(tmp_path_factory.mktemp("defaults"), settings_of(PATIENT))


def test_a_run_that_is_killed_again_and_again_ends_as_if_nothing_had_happened(tmp_path):
    places = kill_again_and_again(SETTINGS, tmp_path, seed=0, kills=3)
    assert adapters_here(places[-1]) == adapters_here(tmp_path / "whole") != {}
    whole, killed = read_results(tmp_path / "whole"), read_results(places[-1])
    assert killed["digest"] == whole["digest"]


@pytest.mark.parametrize(
    ("save", "finished_rounds"),
    [
        (Save("round-00002.safetensors"), 1),
        (Save("checkpoint.safetensors", 2), 1),
        (Save("local-training.safetensors"), 2),
        (Save("clients/0"), 2),
        (Save("personalized.safetensors"), 2),
        (Save("results.json"), 2),
    ],
    ids=str,
)
def test_a_save_cut_short_leaves_what_was_there(whole, tmp_path, save, finished_rounds):
    place, log = tmp_path / "run", tmp_path / "log"
    process = start(log, run_until_save, next_attempt(SETTINGS, place), save)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    (cut,) = place.rglob(".*.tmp")
    assert cut.name == f".{Path(save.end).name}.tmp"
    assert not (place / RESULTS).exists()
    progress, _ = load_record(place / CHECKPOINT)
    assert progress["round"] == finished_rounds
    finish(SETTINGS, place, log)
    assert adapters_here(place) == whole
    assert not list(place.rglob("*.tmp"))


@pytest.mark.parametrize("limited", [False, True], ids=["tmpfs", "limit"])
def test_a_disk_that_is_full_ends_a_run_that_goes_on_when_there_is_room(
    whole_of_defaults, tmp_path, limited
):
    disk, line = full_disk(tmp_path / "full", limited=limited or not mounting_allowed())
    reason = "File too large" if disk == LIMIT else "No space left on device"
    assert reason in line
    assert adapters_here(tmp_path / "full" / "results") == whole_of_defaults
