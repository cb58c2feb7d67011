"""Flower's command line: which folder it packs; the lines after a log's stream are not lost."""

import os
import shutil
import sys
import tomllib
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk
from rich.console import Console

from potara_flwr.core.errors import RunError
from potara_flwr.data.sources import listed
from potara_flwr.run_config import from_flat
from potara_flwr.running import flower_cli
from potara_flwr.running.display import LiveDisplay
from potara_flwr.running.flower_cli import rest_of_log

ROOT = Path(__file__).parents[3]
FLWR = f"""#!{sys.executable}
import pathlib, sys
assert sys.argv[1:] == ["log", "7", "potara", "--show"]
calls = pathlib.Path(__file__).with_name("calls")
calls.touch()
calls.write_text(calls.read_text() + ".")
print("WARNING :     one\\nWARNING :     two")
if len(calls.read_text()) > 1:
    print("ERROR :     error: round 1: nobody is there")
"""


@pytest.mark.parametrize("seconds", [flower_cli.LAST_LINES_SECONDS, 0.0], ids=["idle", "busy"])
def test_last_lines_are_read_once_until_the_error_is_there(tmp_path, capsys, monkeypatch, seconds):
    # On a busy machine the first look is over when the time is.
    monkeypatch.setattr(flower_cli, "LAST_LINES_SECONDS", seconds)
    clock = iter([0.0, 0.0, 1.0])
    monkeypatch.setattr(flower_cli.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(flower_cli.time, "sleep", lambda _: None)
    flwr = tmp_path / "flwr"
    flwr.write_text(FLWR)
    flwr.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    display = LiveDisplay(Console())
    log = rest_of_log("7", environment, display, "WARNING :     one\n")
    assert display.error == "round 1: nobody is there"
    assert capsys.readouterr().out == "two\n"
    assert len(log.splitlines()) == 3
    assert (tmp_path / "calls").read_text() == ".."


def test_a_run_that_ends_without_the_apps_error_names_the_first_exception(tmp_path, monkeypatch):
    log = (
        "Traceback (most recent call last):\nException: The current node timed out.\n"
        "RuntimeError: Simulation Runtime crashed.\n"
    )
    answers = {"submit": "7", "follow": log, "status_of": "finished:failed", "rest_of_log": log}
    for name, answer in answers.items():
        monkeypatch.setattr(flower_cli, name, lambda *_, answer=answer: answer)
    settings = from_flat({"run.results": str(tmp_path / "run")})
    with pytest.raises(RunError) as error:
        flower_cli.run_app(settings, {}, LiveDisplay(Console(quiet=True)), "here")
    assert str(error.value) == (
        "the run ended as finished:failed (The current node timed out); its log is in "
        f"{tmp_path / 'run.log'}"
    )
    assert (tmp_path / "run.log").read_text() == log


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")
def test_a_clone_and_an_installed_package_make_the_app_of_the_clone(tmp_path, monkeypatch):
    expected = build_fab_from_disk(ROOT)
    assert build_fab_from_disk(flower_cli.app_folder(tmp_path / "clone")) == expected
    carried = tmp_path / "carried"
    carried.mkdir()
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, carried)
    monkeypatch.setattr(flower_cli, "CARRIED", carried)
    for _ in range(2):  # anew each time: the package may have changed
        made = flower_cli.app_folder(tmp_path / "home")
        assert build_fab_from_disk(made) == expected


def test_relative_paths_lead_to_the_same_place_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.csv", "b,c.csv"):
        (tmp_path / name).touch()
    (tmp_path / "model").mkdir()

    def found(**settings):
        names = {f"data.{name}": value for name, value in settings.items()}
        return flower_cli.found_from_anywhere(from_flat({"task.model": "./model"} | names))

    assert found(path="a.csv").data.path == f"{tmp_path}/a.csv"
    assert found(path="a.csv").task.model == f"{tmp_path}/model"
    assert found(path="b,c.csv").data.path == f"{tmp_path}/b,c.csv"
    several = found(path='a.csv,"b,c.csv",nyu-mll/glue').data.path
    assert listed(several) == [f"{tmp_path}/a.csv", f"{tmp_path}/b,c.csv", "nyu-mll/glue"]
    # A name of the hub, the embedded model and nothing stay what they are.
    plain = flower_cli.found_from_anywhere(from_flat({}))
    assert plain == from_flat({})


def test_a_wheel_carries_what_the_app_is_made_of():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    carried = project["hatch"]["build"]["targets"]["wheel"]["force-include"]
    place = flower_cli.CARRIED.relative_to(flower_cli.PACKAGE.parent).as_posix()
    assert all(to == f"{place}/{name}" for name, to in carried.items() if name != "conf")
    patterns = {name for name in project["flwr"]["app"]["fab-include"] if "*" not in name}
    assert set(carried) == {"conf", "pyproject.toml", *patterns}
