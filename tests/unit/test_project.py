"""What says something of the project as a whole says the same everywhere."""

import re
import tomllib
from pathlib import Path

import yaml

from potara_flwr import __version__

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_version_is_one():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert citation["version"] == PROJECT["version"] == __version__
    assert next(name for name in headings if name != "Unreleased") == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]


def test_ci_runs_on_every_python_that_is_claimed():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    claimed = [name.rpartition(" ")[2] for name in PROJECT["classifiers"] if "Python :: 3" in name]
    job = workflow["jobs"]["test"]
    assert job["strategy"]["matrix"]["python"] == claimed
    assert ".ci/run" in [step.get("run") for step in job["steps"]]
    assert PROJECT["requires-python"] == f">={claimed[0]},<3.{int(claimed[-1][2:]) + 1}"


def test_the_types_of_the_package_are_for_others_too():
    assert (ROOT / "potara_flwr" / "py.typed").is_file()
