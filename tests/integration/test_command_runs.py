"""``potara`` as a process: run, report what was stored, Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from own_processes import HANGING
from run_words import words_of

from potara_flwr.in_process import run_in_process
from potara_flwr.results.folder import read_results
from potara_flwr.run_config import from_flat

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
POTARA = [sys.executable, "-m", "potara_flwr.command"]


def potara(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*POTARA, *words], cwd=ROOT, capture_output=True, text=True, timeout=HANGING, check=False
    )


def test_a_run_and_its_report(tiny, tmp_path):
    folder = tmp_path / "out"
    ran = potara("run", "--results", str(folder), *words_of(tiny({"run.report": True})))
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1] == f"results: {folder}"
    page, results = (folder / "report.html").read_bytes(), read_results(folder)
    figures = {file.name: file.read_bytes() for file in (folder / "figures").iterdir()}

    (folder / "report.html").unlink()
    for file in (folder / "figures").iterdir():
        file.unlink()
    reported = potara("report", str(folder))

    assert reported.returncode == 0, reported.stderr
    assert (folder / "report.html").read_bytes() == page
    assert {file.name: file.read_bytes() for file in (folder / "figures").iterdir()} == figures
    assert read_results(folder) == results
    tables = ran.stdout[ran.stdout.index("Each client") :]
    assert reported.stdout == tables


def test_a_client_of_a_run_is_personalized_without_a_server(tiny, tmp_path):
    mine = tmp_path / "mine"
    settings = from_flat(tiny().to_flat() | {"run.results": str(tmp_path / "out")})
    folder = run_in_process(settings)
    done = potara("personalize", "--federated", str(folder), "--client", "1", "--out", str(mine))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"results: {mine}"
    for name in ("adapter_model.safetensors", "local/adapter_model.safetensors"):
        assert (mine / name).read_bytes() == (folder / "clients" / "1" / name).read_bytes()
    again = potara("personalize", "--federated", str(folder), "--client", "1", "--out", str(mine))
    assert again.returncode == 1
    assert again.stderr == f"error: {mine} is in use; name a new folder\n"


def test_ctrl_c_ends_a_run_with_one_line_and_130(tiny, tmp_path):
    words = words_of(tiny({"federation.rounds": 10_000}))
    environment = {name: value for name, value in os.environ.items() if name != "POTARA_TRACEBACK"}
    with subprocess.Popen(
        [*POTARA, "run", "--results", str(tmp_path / "out"), *words],
        cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        # Python ignores the signal where its parent does, as a shell has it of background jobs.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:  # fmt: skip
        try:
            assert any("progress: round 2/" in line for line in process.stdout)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=HANGING)
        finally:
            process.kill()
    assert process.returncode == 130
    assert said == "error: stopped by the user\n"
