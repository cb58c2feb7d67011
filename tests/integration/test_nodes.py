"""Named nodes with data of their own, in one process: who is left out, and what is said of them."""

from __future__ import annotations

import csv
import json
import time

import pytest
import torch
from tiny_models import make_tiny_bert

from potara_flwr.client.node import read_node
from potara_flwr.core.errors import RunError, SettingsError
from potara_flwr.in_process import InProcessGrid, run_in_process
from potara_flwr.results.folder import read_results
from potara_flwr.results.tables import client_table
from potara_flwr.run_config import from_flat
from potara_flwr.tasks import TASKS

pytestmark = pytest.mark.integration

NAMES = ("clinic-a", "clinic-b", "clinic-c")


def named_grid(settings, configs, num_nodes=3):
    grid = InProcessGrid(settings, num_nodes=num_nodes)
    for context, config in zip(grid.contexts.values(), configs, strict=True):
        context.node_config = config
    return grid


@pytest.fixture
def settings(tiny, tmp_path):
    return tiny(
        {
            "federation.nodes": ",".join(NAMES),
            "federation.connect-timeout": 0.0,
            "run.results": str(tmp_path / "run"),
        }
    )


@pytest.mark.usefixtures("no_pictures")
def test_names_give_the_bits_of_numbers_whoever_joins_first(tiny, settings, tmp_path):
    settings = from_flat(settings.to_flat() | {"run.report": True})
    grid = named_grid(settings, [{"name": name} for name in reversed(NAMES)])
    folder = run_in_process(settings, grid)
    results = read_results(folder)
    assert [client["name"] for client in results["clients"]] == list(NAMES)
    assert [str(cell) for cell in client_table(results).columns[0].cells] == list(NAMES)
    here = run_in_process(tiny({"run.results": str(tmp_path / "here")}))
    files = sorted(here.rglob("adapter_model.safetensors"))
    assert len(files) == 1 + 2 * 3
    for file in files:
        assert (folder / file.relative_to(here)).read_bytes() == file.read_bytes(), file
    assert "clinic-b" in (folder / "report.html").read_text()


@pytest.mark.parametrize(
    ("wrong", "client", "line"),
    [
        ({"name": "clinic-b", "data-path": "/nowhere/b.csv"}, 1, "node clinic-b: data-path: there"),
        ({"name": "clinic-d"}, None, "node clinic-d: its name is not in federation.nodes"),
        ({"name": "clinic-a"}, None, "another node is client 0 (clinic-a) already"),
        ({}, None, "a node: it has no name"),
        ({"name": "clinic-b", "datapath": "/b"}, 1, "node clinic-b: unknown key 'datapath'"),
    ],
)
def test_a_node_at_fault_is_left_out_by_name(settings, wrong, client, line):
    grid = named_grid(settings, [{"name": "clinic-a"}, wrong, {"name": "clinic-c"}])
    results = read_results(run_in_process(settings, grid))
    assert [entry["name"] for entry in results["clients"]] == ["clinic-a", "clinic-c"]
    (refused,) = results["refused"]
    assert (refused["client"], refused["kind"]) == (client, "describe")
    assert refused["reason"].startswith(line)
    missing = [(entry["client"], entry["name"]) for entry in results["missing"]]
    assert missing == ([] if client == 1 else [(1, "clinic-b")])


def test_too_few_nodes_end_the_run_by_name(settings):
    grid = named_grid(settings, [{"name": "clinic-a"}, {"name": "x"}], num_nodes=2)
    line = "1 of the 3 clients take part, 2 are needed; missing: clinic-b, clinic-c; .*node x: its"
    with pytest.raises(RunError, match=line):
        run_in_process(settings, grid)


def test_who_is_not_there_is_not_blamed_for_anothers_fault(settings):
    configs = [{"name": "clinic-a"}, {"name": "clinic-b", "datapath": "/b"}]
    enough = settings.federation.model_copy(update={"min_reply_fraction": 0.3})
    settings = settings.model_copy(update={"federation": enough})
    results = read_results(run_in_process(settings, named_grid(settings, configs, num_nodes=2)))
    assert [item["client"] for item in results["refused"]] == [1]
    (missing,) = results["missing"]
    assert (missing["client"], missing["reason"]) == (2, "no SuperNode is this client")


def test_a_node_at_fault_that_is_slow_to_say_so_holds_nobody_up(settings, monkeypatch):
    monkeypatch.setattr("potara_flwr.server.gathering.SAY_SECONDS", 0.05)
    monkeypatch.setattr("potara_flwr.server.gathering.POLL_SECONDS", 0.01)
    patient = settings.federation.model_copy(update={"connect_timeout": 1.0})
    settings = settings.model_copy(update={"federation": patient})
    grid = named_grid(settings, [{"name": "clinic-a"}, {}, {"name": "clinic-c"}])
    answer, asked = grid._answer, []

    def slowly(message):
        if message.metadata.message_type == "query.describe":
            asked.append(message.metadata.dst_node_id)
            assert len(asked) < 20
            time.sleep(0.1)  # longer than SAY_SECONDS, as a process that has to start
        return answer(message)

    monkeypatch.setattr(grid, "_answer", slowly)
    results = read_results(run_in_process(settings, grid))
    assert [entry["name"] for entry in results["clients"]] == ["clinic-a", "clinic-c"]
    assert sorted(asked[:3]) == [1, 2, 3]
    assert set(asked[3:]) == {2}


def test_what_every_node_refuses_ends_the_run_at_once(settings):
    settings = settings.model_copy(
        update={"calibration": settings.calibration.model_copy(update={"samples": 10**6})}
    )
    slow = settings.federation.model_copy(update={"connect_timeout": 600.0})
    settings = settings.model_copy(update={"federation": slow})
    grid = named_grid(settings, [{"name": name} for name in NAMES])
    with pytest.raises(SettingsError, match="every node refuses: node clinic-a: calibration"):
        run_in_process(settings, grid)


def test_a_run_waits_for_who_is_not_there_and_says_so(settings, monkeypatch):
    monkeypatch.setattr("potara_flwr.server.gathering.SAY_SECONDS", 0.05)
    monkeypatch.setattr("potara_flwr.server.gathering.POLL_SECONDS", 0.06)
    patient = settings.federation.model_copy(update={"connect_timeout": 30.0})
    settings = settings.model_copy(update={"federation": patient})
    configs = [{"name": "clinic-a"}, {"name": "clinic-b", "data-path": "/nowhere"}, {}]
    grid = named_grid(settings, configs)
    lines: list[str] = []

    def watch(level, text, *args):
        lines.append(text % args)
        if lines[-1].startswith("waiting for"):  # now the operator mends both nodes
            grid.contexts[2].node_config = {"name": "clinic-b"}
            grid.contexts[3].node_config = {"name": "clinic-c"}

    monkeypatch.setattr("potara_flwr.server.gathering.log", watch)
    results = read_results(run_in_process(settings, grid))
    assert any(line.startswith("waiting for clinic-b (at fault), clinic-c (") for line in lines), (
        lines
    )
    assert [entry["name"] for entry in results["clients"]] == list(NAMES)
    assert results["missing"] == []


@pytest.fixture
def tiny_text(tiny, tmp_path):
    """Build settings for texts on a tiny random encoder."""
    make_tiny_bert(tmp_path / "bert")
    made = {"task.name": "text-classification", "task.model": str(tmp_path / "bert")}
    return lambda overrides: tiny({**made, "data.test-fraction": 0.3, **overrides})


@pytest.fixture
def own_files(tmp_path):
    """A file for each node; the third has one class only."""
    files = []
    for number, labels in enumerate((("bad", "good"), ("good", "bad"), ("good",))):
        file = tmp_path / f"{number}.csv"
        with file.open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["text", "label"])
            for row in range(30):
                writer.writerow([f"it was {row} {number}", labels[row % len(labels)]])
        files.append(file)
    return files


def test_all_rows_of_a_nodes_own_file_are_its_own(tiny_text, own_files, tmp_path):
    overrides = {
        "federation.nodes": ",".join(NAMES),
        "data.classes": "bad,good",
        "data.path": "",
        "run.results": str(tmp_path / "run"),
    }
    settings = tiny_text(overrides)
    configs = [
        {"name": name, "data-path": str(file)} for name, file in zip(NAMES, own_files, strict=True)
    ]
    own = run_in_process(settings, named_grid(settings, configs))
    clients = read_results(own)["clients"]
    assert [c["num_train"] + c["num_calibration"] + c["num_test"] for c in clients] == [30] * 3
    assert [c["rows"]["found"] for c in clients] == [30] * 3
    assert read_results(own)["rows"]["found"] == 90
    listed = {"data.path": ",".join(map(str, own_files)), "data.partition": "whole"}
    here = run_in_process(tiny_text(overrides | listed | {"run.results": str(tmp_path / "here")}))
    for file in sorted(here.rglob("adapter_model.safetensors")):
        assert (own / file.relative_to(here)).read_bytes() == file.read_bytes(), file


def test_own_data_that_do_not_fit_are_the_nodes_fault(tiny_text, own_files, tmp_path):
    own_files[1].write_text("words,label\na b,good\n")
    own_files[2].write_text("text,label\na b,awful\n")
    settings = tiny_text(
        {
            "federation.nodes": ",".join(NAMES),
            "federation.min-reply-fraction": 0.3,
            "data.classes": "bad,good",
            "data.path": "",
            "run.results": str(tmp_path / "run"),
        }
    )
    configs = [
        {"name": name, "data-path": str(file)} for name, file in zip(NAMES, own_files, strict=True)
    ]
    results = read_results(run_in_process(settings, named_grid(settings, configs)))
    reasons = {entry["name"]: entry["reason"] for entry in results["refused"]}
    assert f"node clinic-b (data-path {own_files[1]}): data.text-column" in reasons["clinic-b"]
    assert "'awful', which is none of the run's classes: bad, good" in reasons["clinic-c"]
    assert [entry["name"] for entry in results["clients"]] == ["clinic-a"]


def test_a_nodes_labels_mean_what_they_mean_in_the_run(tiny_text, own_files, tmp_path):
    # The server's file has three classes. A node has two of them, which would be numbered anew by
    # its own file, another one has a class that the run does not have.
    rows = "".join(f"it is {row},{('bad', 'good', 'ok')[row % 3]}\n" for row in range(60))
    (tmp_path / "run.csv").write_text(f"text,label\n{rows}")
    own = "".join(f"it is {row},{('good', 'ok')[row % 2]}\n" for row in range(30))
    own_files[1].write_text(f"text,label\n{own}")
    own_files[2].write_text(f"text,label\n{own}it is late,rash\n")
    settings = tiny_text(
        {
            "federation.nodes": ",".join(NAMES),
            "data.path": str(tmp_path / "run.csv"),
            "run.results": str(tmp_path / "run"),
        }
    )
    configs = [{"name": name} for name in NAMES]
    for config, file in zip(configs[1:], own_files[1:], strict=True):
        config["data-path"] = str(file)
    folder = run_in_process(settings, named_grid(settings, configs))
    results = read_results(folder)
    assert results["classes"] == ["bad", "good", "ok"]
    (refused,) = results["refused"]
    assert refused["name"] == "clinic-c"
    assert f"data-path {own_files[2]}" in refused["reason"]
    assert "row 30 has the label 'rash', which is none of the run's classes" in refused["reason"]
    node = read_node({"name": "clinic-b", "data-path": str(own_files[1])}, NAMES)
    here = node.settings(settings, 1, "bad,good,ok")
    data = TASKS["text-classification"](here).load_client(1)
    labels = [data.train["labels"], data.calibration["labels"], data.test["labels"]]
    assert set(torch.cat(labels).tolist()) == {1, 2}
    for client in (0, 1):
        text = (folder / "clients" / str(client) / "classes.json").read_text()
        assert json.loads(text)["id2label"] == {"0": "bad", "1": "good", "2": "ok"}


def test_sources_with_other_classes_are_refused_and_united_by_name(tiny_text, tmp_path):
    for name, words in (("a", ("cold", "flu", "none")), ("b", ("flu", "none", "rash"))):
        rows = "".join(f"it is {row},{words[row % 3]}\n" for row in range(60))
        (tmp_path / f"{name}.csv").write_text(f"text,label\n{rows}")
    settings = {
        "data.path": f"{tmp_path}/a.csv,{tmp_path}/b.csv", "data.num-clients": 2,
        "data.partition": "whole", "run.results": str(tmp_path / "run"),
    }  # fmt: skip
    with pytest.raises(SettingsError) as error:
        run_in_process(tiny_text(settings))
    words = str(error.value)
    assert "a.csv has cold, flu, none and b.csv has flu, none, rash; name them all" in words
    for cure in ("data.classes='cold,flu,none,rash'", "data.classes=union", "task.head=local"):
        assert cure in words
    assert not (tmp_path / "run" / "results.json").exists()
    for classes in ("union", "cold,flu,none,rash"):
        united = tiny_text({**settings, "data.classes": classes})
        data = TASKS["text-classification"](united).load_client(1)
        labels = [data.train["labels"], data.calibration["labels"], data.test["labels"]]
        assert data.classes == ("cold", "flu", "none", "rash")
        assert set(torch.cat(labels).tolist()) == {1, 2, 3}
    results = read_results(run_in_process(tiny_text({**settings, "data.classes": "union"})))
    assert results["classes"] == ["cold", "flu", "none", "rash"]


def test_digits_take_no_data_of_a_nodes_own(settings, tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("text,label\n")
    configs = [{"name": "clinic-a", "data-path": str(file)}, *({"name": n} for n in NAMES[1:])]
    results = read_results(run_in_process(settings, named_grid(settings, configs)))
    (refused,) = results["refused"]
    assert (refused["name"], refused["round"]) == ("clinic-a", 0)
    assert "brings its own images" in refused["reason"]


def test_a_state_dir_holds_the_samples_of_its_own_client_alone(settings, tmp_path):
    configs = [{"name": name} for name in NAMES]
    configs[1]["state-dir"] = str(tmp_path / "state")
    run_in_process(settings, named_grid(settings, configs))
    cached = [file.name for file in (tmp_path / "state" / "data").iterdir()]
    assert cached == ["client-1.safetensors"]
