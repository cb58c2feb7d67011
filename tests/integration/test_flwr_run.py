"""The real ``flwr run``: SuperLink, Ray actors, the packed app; equal bits, a true exit code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from own_processes import HANGING, own_processes
from run_words import words_of

from potara_flwr.core.errors import RunError
from potara_flwr.in_process import run_in_process
from potara_flwr.results.folder import read_results
from potara_flwr.run_config import from_flat
from potara_flwr.running import flower_cli, flower_runtime
from potara_flwr.server import callbacks

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]


def run_command(
    settings, *words: str, results: Path | None = None
) -> subprocess.CompletedProcess[str]:
    place = ["--results", str(results)] if results else []
    return subprocess.run(
        [sys.executable, "-m", "potara_flwr.command", "run", "--runtime", "flwr", *place,
         *words_of(settings), *words],
        cwd=ROOT, capture_output=True, text=True, timeout=HANGING, check=False,
    )  # fmt: skip


@pytest.fixture
def before() -> set[int]:
    return own_processes()


def test_flwr_run_gives_the_bits_of_the_in_process_runtime(tiny, tmp_path, before):
    settings = tiny({"data.num-clients": 4, "federation.fraction-train": 0.5})
    done = run_command(settings, results=tmp_path / "flwr")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    assert lines[-1] == f"results: {tmp_path / 'flwr'}"
    for step in ("round 1/2", "round 2/2", "personalized 4/4"):
        assert any(line.startswith(f"progress: {step} · loss") for line in lines)
    assert "excess-loss (chosen)" in done.stdout

    here = run_in_process(from_flat(settings.to_flat() | {"run.results": str(tmp_path / "here")}))

    assert read_results(tmp_path / "flwr")["digest"] == read_results(here)["digest"]
    files = sorted(here.rglob("adapter_model.safetensors"))
    assert len(files) == 1 + 2 * 4
    for file in files:
        twin = tmp_path / "flwr" / file.relative_to(here)
        assert twin.read_bytes() == file.read_bytes(), file
    assert own_processes() == before


@pytest.mark.slow
def test_a_run_that_died_goes_on_in_another_runtime(tiny, tmp_path, before, monkeypatch):
    settings = tiny({"method": "ditto", "federation.transport": "int8"})
    here, there = (
        from_flat(settings.to_flat() | {"run.results": str(tmp_path / name)})
        for name in ("here", "there")
    )
    run_in_process(here)

    save = callbacks.save_checkpoint

    def save_and_die(*progress):
        save(*progress)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(callbacks, "save_checkpoint", save_and_die)
        with pytest.raises(KeyboardInterrupt):
            run_in_process(there)
    done = run_command(settings, f"run.resume={tmp_path / 'there'}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == f"results: {tmp_path / 'there'}"
    digests = [read_results(tmp_path / name)["digest"] for name in ("here", "there")]
    assert digests[0] == digests[1]
    again = run_command(settings, f"run.resume={tmp_path / 'there'}")
    assert again.returncode == 1
    assert again.stderr.startswith("error: run.resume: the run in")
    assert own_processes() == before


def test_a_run_that_fails_has_one_line_and_a_non_zero_exit(tiny, tmp_path, before):
    done = run_command(tiny({"train.learning-rate": 1e30}), results=tmp_path / "flwr")
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: round 1: 0 of 3 clients sent a usable update")
    assert "client 2: the loss is nan at step 2" in line
    assert "Traceback" not in done.stdout
    assert not list(tmp_path.rglob("*.json"))
    assert own_processes() == before


def test_a_submission_that_fails_is_an_error(tiny, tmp_path, monkeypatch, before):
    monkeypatch.setattr(flower_cli, "app_folder", lambda home: tmp_path)
    with (
        flower_runtime.superlink() as environment,
        pytest.raises(RunError, match="flwr run failed"),
    ):
        flower_cli.submit(tiny(), environment)
    assert own_processes() == before
