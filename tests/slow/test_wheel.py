"""The wheel of a clean checkout in an empty environment: every subcommand, from another folder.

Minutes, and a gigabyte from the package index; torch's CPU wheels from ``TORCH_INDEX_URL``, or
where pip is told to look.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from potara_flwr.in_process import run_in_process
from potara_flwr.results.folder import read_results
from potara_flwr.running.composition import compose_settings

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
WORDS = ["data.num-clients=2", "federation.rounds=1", "train.local-steps=2", "local.steps=5"]


def run(*words: str | Path, cwd: Path = ROOT) -> str:
    """Run a command in which nothing leads to this checkout; return what it says."""
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(words, cwd=cwd, env=own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    """A folder that is gone afterwards: pytest would keep its gigabytes for three runs."""
    with tempfile.TemporaryDirectory(prefix="potara-") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def wheel(scratch: Path) -> Path:
    checkout = scratch / "checkout"
    for name in run("git", "ls-files", "-z").rstrip("\0").split("\0"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, checkout / name)
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", scratch, checkout)
    (made,) = scratch.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(scratch: Path, wheel: Path) -> Path:
    """The scripts of an environment that had nothing in it."""
    venv.create(scratch / "empty", with_pip=True)
    scripts = scratch / "empty" / "bin"
    index = os.environ.get("TORCH_INDEX_URL")
    more = ["--extra-index-url", index] if index else []
    pip = [scripts / "pip", "install", "--constraint", ROOT / "constraints.txt"]
    run(*pip, *more, "torch")
    run(*pip, wheel)
    return scripts


@pytest.fixture(scope="module")
def elsewhere(scratch: Path) -> Path:
    folder = scratch / "elsewhere"
    folder.mkdir()
    return folder


def results_of(said: str) -> Path:
    """Return the folder that the last line names."""
    last = said.strip().splitlines()[-1]
    assert last.startswith("results: ")
    return Path(last.removeprefix("results: "))


def test_it_installs_no_top_level_package_but_one(installed):
    python = installed / "python"
    code = (
        "from importlib.metadata import files\n"
        "print(*sorted({file.parts[0] for file in files('potara-flwr')}))"
    )
    tops = run(python, "-c", code, cwd=installed).split()
    assert [top for top in tops if not top.endswith(".dist-info")] == ["..", "potara_flwr"]


def test_a_run_goes_to_results_below_the_folder_with_the_bits_of_the_checkout(
    installed, elsewhere, tmp_path
):
    here = run_in_process(compose_settings([*WORDS, f"run.results='{tmp_path / 'here'}'"]))
    for runtime in ("in-process", "flwr"):
        said = run(installed / "potara", "run", "--runtime", runtime, *WORDS, cwd=elsewhere)
        results = results_of(said)
        assert results.parent == elsewhere / "results"
        assert read_results(results)["digest"] == read_results(here)["digest"]


def test_what_comes_after_a_run_works_too(installed, elsewhere):
    potara = installed / "potara"
    done = elsewhere / "done"
    assert results_of(run(potara, "run", *WORDS, "--results", "done", cwd=elsewhere)) == done
    assert results_of(run(potara, "report", "done", cwd=elsewhere)) == done
    alone = ["personalize", "--federated", "done", "--client", "1", "--out", "mine"]
    assert results_of(run(potara, *alone, cwd=elsewhere)) == elsewhere / "mine"


def test_a_sweep_and_its_comparison(installed, elsewhere):
    potara = installed / "potara"
    said = run(potara, "sweep", *WORDS, "seed=1,2", cwd=elsewhere)
    assert "runs: 2 done, 0 kept, 0 failed" in said
    assert results_of(said) == elsewhere / "results" / "sweeps" / "default"
    said = run(potara, "compare", "results/sweeps/default", cwd=elsewhere)
    assert "page: results/sweeps/default/comparison/comparison.html" in said


def test_a_federation_of_real_processes(installed, elsewhere):
    words = ["--nodes", "1", "federation.rounds=1", "local.steps=5", "--results", "deployed"]
    said = run(installed / "potara", "deploy", *words, cwd=elsewhere)
    assert results_of(said) == elsewhere / "deployed"


def test_doctor_finds_nothing_that_fails(installed, elsewhere):
    looked = run(installed / "potara", "doctor", cwd=elsewhere)
    for package in ("python", "flwr", "torch", "packages", "compute", "model", "data"):
        assert f"ok    {package}: " in looked
