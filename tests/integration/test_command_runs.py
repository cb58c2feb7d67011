"""``potara`` from a command line to its files: a run, its report, a client alone, Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from own_processes import HANGING
from run_words import words_of

from potara_flwr.command.main import main
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


def test_a_run_and_its_report(tiny, tmp_path, capsys):
    folder = tmp_path / "out"
    ran = potara("run", "--results", str(folder), *words_of(tiny({"run.report": True})))
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1] == f"results: {folder}"
    page, results = (folder / "report.html").read_bytes(), read_results(folder)
    figures = {file.name: file.read_bytes() for file in (folder / "figures").iterdir()}

    (folder / "report.html").unlink()
    for file in (folder / "figures").iterdir():
        file.unlink()
    assert main(["report", str(folder)]) == 0
    reported = capsys.readouterr().out

    assert (folder / "report.html").read_bytes() == page
    assert {file.name: file.read_bytes() for file in (folder / "figures").iterdir()} == figures
    assert read_results(folder) == results
    tables = ran.stdout[ran.stdout.index("Each client") :]
    assert reported == tables


def test_a_client_of_a_run_is_personalized_without_a_server(tiny, tmp_path, capsys):
    mine = tmp_path / "mine"
    settings = from_flat(tiny().to_flat() | {"run.results": str(tmp_path / "out")})
    folder = run_in_process(settings)
    words = ["personalize", "--federated", str(folder), "--client", "1", "--out", str(mine)]
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"results: {mine}"
    for name in ("adapter_model.safetensors", "local/adapter_model.safetensors"):
        assert (mine / name).read_bytes() == (folder / "clients" / "1" / name).read_bytes()
    assert main(words) == 1
    assert capsys.readouterr().err == f"error: {mine} is in use; name a new folder\n"


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
