"""The ``potara`` command: its help, its errors, its exit statuses, and reports made anew."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer
from results_example import example_results
from typer.testing import CliRunner

from potara_flwr import __version__
from potara_flwr.command import main as command
from potara_flwr.command.exit_status import TRACEBACK
from potara_flwr.command.words import setting_names
from potara_flwr.core.errors import PotaraError
from potara_flwr.results.folder import write_results
from potara_flwr.running.composition import compose_settings, compose_sweep

ROOT = Path(__file__).parents[3]
GROUP = typer.main.get_command(command.app)
SUBCOMMANDS = sorted(GROUP.commands)
LINES, COLUMNS = 30, 80


def help_of(*words: str) -> str:
    outcome = CliRunner().invoke(command.app, [*words, "--help"], prog_name="potara")
    assert outcome.exit_code == 0
    return outcome.stdout


def examples_in(text: str) -> list[list[str]]:
    """Return the words of the command lines under ``Example:``, without ``potara``."""
    shown = text.partition("Example:\n")[2].partition("\n\n")[0].splitlines()
    lines = [line.split() for line in shown]
    assert all(line[0] == "potara" for line in lines)
    return [line[1:] for line in lines]


@pytest.mark.parametrize("words", [(), *((name,) for name in SUBCOMMANDS)])
def test_help_fits_a_screen_and_its_examples_can_be_read(words):
    lines = help_of(*words).splitlines()
    assert len(lines) <= LINES
    assert max(map(len, lines)) <= COLUMNS
    assert not any("\\" in line for line in lines)
    examples = examples_in(help_of(*words))
    assert examples
    for name, *rest in examples:
        assert words in ((), (name,))
        # Reads and converts every word, and does nothing.
        read = GROUP.commands[name].make_context(name, list(rest))
        compose = compose_sweep if name == "sweep" else compose_settings
        compose(read.params.get("settings") or [])


def test_all_subcommands_have_a_line_of_their_own():
    listed = help_of().partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in listed] == list(GROUP.commands)
    assert not any(line.endswith("...") for line in listed)


def test_pyproject_installs_the_command():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, name = scripts["potara"].partition(":")
    assert getattr(importlib.import_module(module), name) is command.main


def test_version(capsys):
    assert command.main(["--version"]) == 0
    assert capsys.readouterr().out == f"potara {__version__}\n"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "error: Missing command. (potara --help)"),
        (["runn"], "error: No such command 'runn'. Did you mean 'run'? (potara --help)"),
        (["report"], "error: Missing argument 'FOLDER'. (potara report --help)"),
        (["run", "--runtime", "ray"], "error: Invalid value for '--runtime': 'ray' is not one of "
         "'in-process', 'flwr'. (potara run --help)"),
    ],
)  # fmt: skip
def test_a_command_line_that_cannot_be_read_is_one_line_and_2(words, line, capsys):
    assert command.main(words) == 2
    assert capsys.readouterr().err == line + "\n"


def test_a_users_error_is_one_line_and_1(capsys):
    assert command.main(["run", "lora.rnk=2"]) == 1
    assert capsys.readouterr().err == (
        "error: unknown setting 'lora.rnk'; did you mean lora.rank?\n"
    )


@pytest.fixture
def run_raises(monkeypatch):
    def raises(error: BaseException) -> None:
        def run_and_show(*_: object) -> None:
            raise error

        monkeypatch.setattr("potara_flwr.running.one_run.run_and_show", run_and_show)

    return raises


def test_what_nobody_foresaw_is_one_line_that_says_what_to_do(run_raises, capsys, monkeypatch):
    monkeypatch.delenv(TRACEBACK, raising=False)
    run_raises(ZeroDivisionError("by zero\nand more"))
    assert command.main(["run"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ZeroDivisionError: by zero (not foreseen: with POTARA_TRACEBACK")


@pytest.mark.parametrize("error", [ZeroDivisionError("by zero"), PotaraError("no room")])
def test_a_traceback_comes_where_it_is_asked_for(error, run_raises, capsys, monkeypatch):
    monkeypatch.setenv(TRACEBACK, "1")
    run_raises(error)
    assert command.main(["run"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("Traceback (most recent call last)")
    assert "in run_and_show" in said
    assert said.splitlines()[-1].startswith("error: ")


def test_ctrl_c_is_one_line_and_130(run_raises, capsys):
    run_raises(KeyboardInterrupt())
    assert command.main(["run"]) == 130
    assert capsys.readouterr().err == "error: stopped by the user\n"


def test_ctrl_c_on_a_sweep_says_how_to_go_on(monkeypatch, capsys):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("potara_flwr.sweeps.one_sweep.sweep_and_show", interrupted)
    assert command.main(["sweep", "seed=1,2"]) == 130
    line = "error: stopped by the user; the same command continues\n"
    assert capsys.readouterr().err == line


@pytest.mark.parametrize(
    ("name", "work"),
    [
        ("run", "running.one_run.run_and_show"),
        ("sweep", "sweeps.one_sweep.sweep_and_show"),
        ("deploy", "running.deployment.deploy_and_show"),
    ],
)
def test_options_and_settings_may_stand_in_any_order(name, work, monkeypatch):
    monkeypatch.setattr("signal.signal", lambda *_: None)
    seen = []
    monkeypatch.setattr(f"potara_flwr.{work}", lambda *seen_by, **_: seen.append(seen_by) or True)
    options = {"run": ["--runtime", "flwr"], "sweep": ["-m"], "deploy": ["--nodes", "4"]}[name]
    words = ["--results", "some/folder", "seed=3", *options, "lora.rank=2"]
    assert command.main([name, *words]) == 0
    ((settings, *others),) = seen
    assert settings == ["seed=3", "lora.rank=2"]
    expected = {"run": ["flwr"], "sweep": [], "deploy": [4]}[name]
    assert sorted(map(str, others)) == sorted(map(str, [*expected, Path("some/folder")]))


def test_help_loads_nothing_that_is_slow():
    # Those with [required] options come last: it is escaped for rich, by Typer itself.
    required = [["export"], ["merge"], ["personalize"], ["predict"]]
    lines = [[], *([name] for name in SUBCOMMANDS if [name] not in required), *required]
    code = (
        "import sys\n"
        "from potara_flwr.command.main import main\n"
        'slow = {"torch", "flwr", "hydra", "pydantic", "numpy", "matplotlib", "rich"}\n'
        f"for words in {lines}:\n"
        "    main([*words, '--help'])\n"
        f"    loaded = slow & set(sys.modules) - ({{'rich'}} if words in {required} else set())\n"
        "    if loaded:\n"
        "        sys.exit(f'{words}: {loaded}')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_shell_completes_the_names_of_settings():
    names = ["lora.rank=", "lora.ranks=", "lora.rank-pattern=", "lora.rslora="]
    assert list(setting_names("lora.r")) == names
    assert list(setting_names("exp")) == ["experiment="]


@pytest.fixture
def stored(tmp_path):
    results = example_results(clients=2, rounds=2)
    write_results(tmp_path, results)
    return tmp_path


@pytest.mark.usefixtures("no_pictures")
def test_a_report_is_made_anew_from_results_json(stored, capsys):
    before = (stored / "results.json").read_bytes()
    assert command.main(["report", str(stored)]) == 0
    page = (stored / "report.html").read_text()
    assert "excess-loss (chosen)" in page
    assert (stored / "figures" / "accuracy-per-client.png").is_file()
    assert (stored / "results.json").read_bytes() == before
    out = capsys.readouterr().out
    assert "excess-loss (chosen)" in out
    assert out.splitlines()[-1] == f"results: {stored}"


def damage(kind: str, folder: Path) -> None:
    file = folder / "results.json"
    text = file.read_text()
    results = json.loads(text)
    if kind == "missing":
        file.unlink()
    elif kind == "below":
        (folder / "run-1").mkdir()
        file.rename(folder / "run-1" / "results.json")
    elif kind == "cut":
        file.write_text(text[: len(text) // 2])
    elif kind == "a list":
        file.write_text("[]")
    elif kind == "no digest":
        del results["digest"]
        file.write_text(json.dumps(results))
    elif kind == "changed":
        results["summary"]["mean"]["accuracy"]["personalized"] = 1.0
        file.write_text(json.dumps(results))
    elif kind == "older":
        del results["communication"], results["digest"]
        write_results(folder, results)


@pytest.mark.parametrize(
    ("kind", "part"),
    [
        ("missing", "there is no results.json in "),
        ("below", "; there is one in "),
        ("cut", "is damaged"),
        ("a list", "is damaged"),
        ("no digest", "is damaged"),
        ("changed", "was changed after the run"),
        ("older", "has no 'communication': another version"),
    ],
)
def test_results_that_cannot_be_reported_are_one_line(kind, part, stored, capsys):
    damage(kind, stored)
    assert command.main(["report", str(stored)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert part in line
    assert not (stored / "report.html").exists()


def test_no_folder_is_one_line(tmp_path, capsys):
    assert command.main(["report", str(tmp_path / "nowhere")]) == 1
    assert capsys.readouterr().err == f"error: there is no folder {tmp_path / 'nowhere'}\n"
