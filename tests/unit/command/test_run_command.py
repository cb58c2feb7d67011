"""The command line: settings as name=value, one line an error, the exit status."""

import pytest
from run_words import words_of

from potara_flwr.command.main import main
from potara_flwr.running.one_run import new_folder


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["lora.rank=0"], "lora.rank is 0, but must be an integer ≥ 1"),
        (["lora.rank=two"], "lora.rank is 'two'"),
        (["lora.rank"], "write name=value"),
        (["lora.rnk=2"], "did you mean lora.rank?"),
        (["lora.rank=2,4"], "several values"),
        (["experiment=papr"], "did you mean paper?"),
        (["data.alpha=-1"], "data.alpha is -1"),
        (["data.num-clients=0"], "data.num-clients is 0"),
        (["merge.rule=best"], "merge.rule is 'best'"),
        (["task.model=no/such/model"], "task.model: there is no folder 'no/such/model'"),
        (["lora.target-modules=query"], "it has"),
        (["calibration.samples=5000"], "calibration.samples is 5000"),
    ],
)
def test_bad_settings_are_one_line_and_exit_with_1(words, part, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["run", *words]) == 1
    captured = capsys.readouterr()
    (line,) = captured.err.strip().splitlines()
    assert line.startswith("error: ")
    assert part in line
    assert list(tmp_path.iterdir()) == []


def test_a_used_results_folder_is_refused_and_left_alone(tiny, capsys, tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    words = words_of(tiny())
    assert main(["run", "--results", str(tmp_path), *words]) == 1
    assert "already used" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_a_run_ends_with_its_results_folder(tiny, capsys, tmp_path):
    words = words_of(tiny())
    assert main(["run", "--results", str(tmp_path / "out"), *words]) == 0
    out = capsys.readouterr().out
    assert out.strip().splitlines()[-1] == f"results: {tmp_path / 'out'}"
    assert "progress: round 2/2" in out
    assert (tmp_path / "out" / "results.json").is_file()


def test_new_folders_never_collide(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = new_folder()
    first.mkdir(parents=True)
    assert new_folder() != first


def test_going_on_needs_no_folder_of_its_own(tiny, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = words_of(tiny())
    assert main(["run", "--results", "out", *words, "run.resume=out"]) == 1
    assert "leave out --results" in capsys.readouterr().err
    assert main(["run", *words, "run.resume=out"]) == 1
    assert f"there is no checkpoint.safetensors in {tmp_path}/out" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert main(["run", "--results", "out", *words]) == 0
    assert main(["run", *words, "run.personalize-only=out"]) == 0
    out = capsys.readouterr().out
    assert f"nothing to do, all clients are personalized in {tmp_path}/out" in out
    assert out.strip().splitlines()[-1] == f"results: {tmp_path}/out"
    assert main(["run", *words, "run.resume=out"]) == 1
    assert "is already finished" in capsys.readouterr().err
