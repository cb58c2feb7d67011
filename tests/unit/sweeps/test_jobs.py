"""Runs of a sweep: their names, how they are known again, the lock, an address that is dead."""

import json
import socket

import pytest
from rich.console import Console

from potara_flwr.command.main import main
from potara_flwr.core.errors import RunError, SettingsError
from potara_flwr.run_config import from_flat
from potara_flwr.sweeps.jobs import ERROR, Job, label_of
from potara_flwr.sweeps.launching import check_reachable, locked, ray_words
from potara_flwr.sweeps.one_sweep import common_names, default_folder, outcome_table, plan


def job(tmp_path, label="lora.rank=2", **settings):
    return Job(label, from_flat(settings or {"lora.rank": 2}), tmp_path)


def finish(one, accuracy=0.5):
    one.folder.mkdir()
    mean = {"accuracy": {"personalized": accuracy}, "loss": {"personalized": 1.0}}
    results = {"config": one.settings.computed(), "summary": {"mean": mean}}
    (one.folder / "results.json").write_text(json.dumps(results))


def test_a_label_leaves_out_what_all_runs_share():
    runs = [["seed=1", "lora.rank=2", "data.alpha=1"], ["seed=1", "lora.rank=4", "data.alpha=1"]]
    common = common_names(runs)
    assert common == ["seed", "data.alpha"]
    assert [label_of(words, common) for words in runs] == ["lora.rank=2", "lora.rank=4"]
    assert common_names([["seed=1"]]) == []
    assert label_of([], []) == "default"


def test_a_folder_is_named_by_words_and_settings(tmp_path):
    one = job(tmp_path, "task.model='/a b/c',lora.rank=2")
    assert one.folder.parent == tmp_path
    assert one.folder.name == f"task.model=__a_b_c_,lora.rank=2-{one.key}"
    long = job(tmp_path, "task.model=" + "x" * 500)
    assert len(long.folder.name) < 255


def test_a_key_tells_settings_apart_but_not_where_results_go():
    def key(values):
        return Job("", from_flat(values), None).key

    assert key({"lora.rank": 2}) != key({"lora.rank": 3})
    assert key({"data.alpha": 1}) == key({"data.alpha": 1.0})
    assert key({"run.results": "/somewhere"}) == key({})


def test_a_run_is_known_by_its_settings_whatever_its_words(tmp_path):
    one = job(tmp_path, "lora.rank=2")
    assert one.results() is None
    finish(one)
    other = job(tmp_path, "experiment=digits,lora.rank=2")
    assert other.folder == one.folder
    assert other.results() is not None


def test_results_of_other_settings_are_refused(tmp_path):
    one = job(tmp_path)
    finish(one)
    file = one.folder / "results.json"
    file.write_text(file.read_text().replace('"rank": 2', '"rank": 3'))
    with pytest.raises(SettingsError, match="was made with other settings"):
        one.results()


def test_a_plan_refuses_runs_that_collide(tmp_path):
    two = from_flat({"lora.rank": 2})
    with pytest.raises(SettingsError, match=r"two runs have the same settings: lora\.rank=2"):
        plan([(["lora.rank=2"], two), (["lora.rank=2"], two)], tmp_path)
    with pytest.raises(SettingsError, match=r"run\.results"):
        plan([([], from_flat({"run.results": "/x"}))], tmp_path)


def test_a_sweep_is_named_after_its_experiments():
    def name(*runs):
        return default_folder(runs).name

    assert name(["seed=1"]) == "default"
    assert name(["experiment=paper", "seed=1"], ["experiment=paper", "seed=2"]) == "paper"
    assert name(["experiment=digits"], ["experiment=paper"]) == "digits+paper"


def test_the_table_tells_done_kept_and_failed(tmp_path):
    jobs = [job(tmp_path, f"lora.rank={rank}", **{"lora.rank": rank}) for rank in (2, 4, 8)]
    finish(jobs[0], 0.25)
    finish(jobs[1], 0.75)
    jobs[2].folder.mkdir()
    (jobs[2].folder / ERROR).write_text("too large\n\nTraceback")
    console = Console(width=100)
    with console.capture() as capture:
        console.print(outcome_table(jobs, kept=jobs[:1]))
    rows = [line.split() for line in capture.get().splitlines() if "lora.rank" in line]
    assert [row[:3] for row in rows] == [
        ["lora.rank=2", "kept", "25.0"],
        ["lora.rank=4", "done", "75.0"],
        ["lora.rank=8", "failed", "–"],
    ]
    assert [one.error() for one in jobs] == ["", "", "too large"]


def test_two_sweeps_cannot_share_a_folder(tmp_path):
    second = locked(tmp_path / "sweep")
    with (
        locked(tmp_path / "sweep"),
        pytest.raises(SettingsError, match="another sweep is at work"),
    ):
        second.__enter__()
    with locked(tmp_path / "sweep"):
        pass
    assert list((tmp_path / "sweep").iterdir()) == []


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["sweep", "--results", str(tmp_path / "file" / "x"), "seed=1"]) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_a_cluster_that_does_not_answer_is_told_at_once():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(SettingsError, match=f"no Ray cluster answers at {address}"):
            check_reachable(address)
        server.listen()
        check_reachable(address)
        check_reachable(f"ray://{address}")
    check_reachable("auto")


def test_an_existing_cluster_is_not_told_how_much_memory_it_has():
    alone, joined = ray_words(None), ray_words("auto")
    assert [word for word in joined if word not in alone] == [
        "++hydra.launcher.ray.init.object_store_memory=null"
    ]


def test_a_launcher_that_breaks_down_leaves_the_rest_to_be_continued(tmp_path, capsys, monkeypatch):
    def break_down(words, config, folder, common):
        finish(Job("lora.rank=2", from_flat({"lora.rank": 2}), folder))
        raise RunError("Ray: a worker died")

    monkeypatch.setattr("potara_flwr.sweeps.one_sweep.launch", break_down)
    assert main(["sweep", "lora.rank=2,4", "--results", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [
        "error: Ray: a worker died",
        "failed: lora.rank=4: it was not finished; the same command continues",
    ]
    assert "runs: 1 done, 0 kept, 1 failed" in captured.out
