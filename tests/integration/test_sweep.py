"""Sweeps on a tiny model: serial, on Ray, killed and continued, with a run that fails."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
from own_processes import HANGING
from run_words import words_of

from potara_flwr.command.main import main
from potara_flwr.results.folder import read_results

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
GRID = ["lora.rank=2,4", "seed=1,2"]


@pytest.fixture(scope="module")
def words(tiny):
    """The words of a tiny 2 × 2 sweep."""
    swept = {word.partition("=")[0] for word in GRID}
    all_words = words_of(tiny())
    return [word for word in all_words if word.partition("=")[0] not in swept] + GRID


@pytest.fixture(scope="module")
def undisturbed(words, tmp_path_factory):
    """The folder of the sweep, run to its end in one go."""
    sweep = tmp_path_factory.mktemp("sweeps") / "undisturbed"
    reported = [word.replace("run.report=false", "run.report=true") for word in words]
    assert main(["sweep", "-m", *reported, "--results", str(sweep)]) == 0
    return sweep


def digests(sweep):
    return {
        (results["config"]["lora"]["rank"], results["config"]["seed"]): results["digest"]
        for results in (read_results(file.parent) for file in sweep.glob("*/results.json"))
    }


def start(words, sweep, **environment):
    """Start a sweep in a process of its own, in which nothing of this one's is left."""
    return subprocess.Popen(
        [sys.executable, "-m", "potara_flwr.command", "sweep", *words, "--results", str(sweep)],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip


def test_a_sweep_has_a_whole_run_for_each_combination(words, undisturbed, capsys):
    found = digests(undisturbed)
    assert set(found) == {(rank, seed) for rank in (2, 4) for seed in (1, 2)}
    assert len(set(found.values())) == 4
    folders = sorted(folder for folder in undisturbed.iterdir() if folder.is_dir())
    assert [folder.name.rpartition("-")[0] for folder in folders] == [
        "lora.rank=2,seed=1", "lora.rank=2,seed=2", "lora.rank=4,seed=1", "lora.rank=4,seed=2"
    ]  # fmt: skip
    assert all((folder / "report.html").is_file() for folder in folders)
    assert main(["sweep", *words, "--results", str(undisturbed)]) == 0
    out = capsys.readouterr().out
    assert "runs: 0 done, 4 kept, 0 failed" in out
    assert out.strip().splitlines()[-1] == f"results: {undisturbed}"
    assert digests(undisturbed) == found


@pytest.fixture
def short_folder():
    """A folder for what Ray keeps while it runs: its sockets' paths must be short."""
    with tempfile.TemporaryDirectory(prefix="s-", dir="/tmp") as folder:
        yield Path(folder)


def test_runs_on_ray_are_those_of_one_after_the_other(words, undisturbed, tmp_path, short_folder):
    sweep = tmp_path / "ray"
    process = start(["hydra/launcher=ray", *words], sweep, TMPDIR=str(short_folder))
    out, err = process.communicate(timeout=HANGING)
    assert process.returncode == 0, err
    assert digests(sweep) == digests(undisturbed)
    assert "runs: 4 done, 0 kept, 0 failed" in out
    # Nothing is left: Ray's processes have its folder on their command lines.
    assert list(short_folder.iterdir()) == []
    lines = [
        " ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])
    ]
    assert not any(str(short_folder) in line for line in lines)


@pytest.mark.slow
def test_a_run_that_kills_its_process_fails_and_the_others_go_on(words, tmp_path, short_folder):
    sweep = tmp_path / "dying"
    words = [word for word in words if not word.startswith("lora.rank")]
    process = start(["hydra/launcher=ray", *words], sweep, TMPDIR=str(short_folder))
    killed: list[int] = []
    while process.poll() is None:
        for folder in sweep.glob("seed=1-*"):
            attempts = sweep / f".{folder.name.rpartition('-')[2]}.attempts"
            pids = [int(pid) for pid in attempts.read_text().split()] if attempts.exists() else []
            for pid in set(pids) - set(killed):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
        time.sleep(0.005)
    out, err = process.communicate()
    assert process.returncode == 1
    assert len(killed) == 3
    (line,) = {line for line in err.splitlines() if line.startswith("failed: seed=1")}
    assert "its process died 3 times without a word" in line
    assert "runs: 1 done, 0 kept, 1 failed" in out
    assert not list(sweep.glob(".*.attempts"))
    assert {f.parent.name.rpartition("-")[0] for f in sweep.glob("*/error.txt")} == {"seed=1"}


@pytest.mark.slow
def test_a_killed_sweep_continues_and_ends_as_an_undisturbed_one(words, undisturbed, tmp_path):
    sweep = tmp_path / "killed"
    process = start(words, sweep)
    deadline = time.monotonic() + HANGING
    while len(list(sweep.glob("*/results.json"))) < 1 or len(list(sweep.glob("*/"))) < 2:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    first, *others = sorted(sweep.glob("*/results.json"), key=lambda file: file.stat().st_mtime)
    assert len(others) < 3
    before = first.stat().st_mtime_ns
    assert any(not (folder / "results.json").exists() for folder in sweep.glob("*/"))

    process = start(words, sweep)
    out, err = process.communicate(timeout=HANGING)
    assert process.returncode == 0, err
    assert f"kept: {first.parent.name.rpartition('-')[0]}" in out
    assert first.stat().st_mtime_ns == before
    assert digests(sweep) == digests(undisturbed)
    assert f"runs: {3 - len(others)} done, {1 + len(others)} kept, 0 failed" in out


def test_a_failing_run_is_shown_and_the_others_go_on(words, tmp_path, capsys, monkeypatch):
    words = [word for word in words if not word.startswith(("calibration.samples", *GRID))]
    words += ["lora.rank=2", "seed=1", "calibration.samples=5000,6"]
    sweep = tmp_path / "failing"
    assert main(["sweep", *words, "--results", str(sweep)]) == 1
    captured = capsys.readouterr()
    (line,) = {line for line in captured.err.splitlines() if line.startswith("failed: ")}
    assert line.startswith("failed: calibration.samples=5000: calibration.samples is 5000, more")
    assert "Traceback" not in captured.err
    assert "runs: 1 done, 0 kept, 1 failed" in captured.out
    (error,) = sweep.glob("*/error.txt")
    assert "Traceback" in error.read_text()

    # A bug in a run is no other than a setting that does not fit it; the next sweep mends it.
    (done,) = sweep.glob("*/results.json")
    shutil.rmtree(done.parent)
    with monkeypatch.context() as patch:
        patch.setattr("potara_flwr.sweeps.jobs.run_displayed", lambda *_: {}["missing"])
        assert main(["sweep", *words, "--results", str(sweep)]) == 1
    assert "failed: calibration.samples=6: KeyError: 'missing'" in capsys.readouterr().err
    assert main(["sweep", *words, "--results", str(sweep)]) == 1
    assert "runs: 1 done, 0 kept, 1 failed" in capsys.readouterr().out
