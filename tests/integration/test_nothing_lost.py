"""Missing clients asked again, full disks, nodes with a state folder, many clients that fail."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import random
import shutil

import pytest
from clients import same_bits
from flwr.app import Message
from flwr.app.error import Error
from flwr.common.constant import ErrorCode
from full_disk import fill_disk

from potara_flwr.client.store import ClientStore
from potara_flwr.core.errors import RunError, SettingsError, StorageError
from potara_flwr.in_process import InProcessGrid, run_in_process
from potara_flwr.methods import METHODS
from potara_flwr.models.lora import load_adapter
from potara_flwr.results import saving
from potara_flwr.results.folder import digest, read_results
from potara_flwr.results.tables import client_table
from potara_flwr.server import callbacks
from potara_flwr.tasks.workbench import Workbench

pytestmark = pytest.mark.integration

SHORT = {
    "federation.rounds": 2, "federation.baseline-rounds": 2, "train.local-steps": 1,
    "local.steps": 2, "data.test-samples": 12,
}  # fmt: skip


class FailingGrid(InProcessGrid):
    """Some clients fail: (client, kind) always, (client, kind, round) in that round; of
    (client, kind, "after") only the reply is lost.
    """

    def __init__(self, settings, lost=(), node_configs=None):
        super().__init__(settings)
        self.lost = set(lost)
        self.asked = []
        for node, values in (node_configs or {}).items():
            self.contexts[node].node_config.update(values)

    def _answer(self, message):
        metadata = message.metadata
        key = (metadata.dst_node_id - 1, metadata.message_type.rpartition(".")[2])
        if metadata.message_type != "query.describe":
            self.asked.append(key)
        if {key, (*key, metadata.group_id)} & self.lost:
            app, self.app = self.app, fail
            try:
                return super()._answer(message)
            finally:
                self.app = app
        reply = super()._answer(message)
        if (*key, "after") in self.lost:
            return Message(Error(ErrorCode.UNKNOWN, "the reply was lost"), reply_to=message)
        return reply


def fail(message, context):
    raise RuntimeError("this device is gone")


@pytest.fixture
def settings_of(tiny, tmp_path):
    def build(name, overrides=None, key="results"):
        return tiny({**SHORT, **(overrides or {}), f"run.{key}": str(tmp_path / name)})

    return build


@pytest.fixture
def run(settings_of):
    """Run; return the results folder and the grid."""

    def go(name, overrides=None, key="results", **kwargs):
        settings = settings_of(name, overrides, key)
        grid = FailingGrid(settings, **kwargs)
        return run_in_process(settings, grid), grid

    return go


def hashes(folder):
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def adapters_of(folder):
    return {
        name: value
        for name, value in hashes(folder).items()
        if name.endswith(".safetensors") and name.startswith(("federated/", "clients/"))
    }


@pytest.mark.parametrize(
    ("method", "transport"), [("potara", "float32"), ("fedalt", "int8"), ("local", "float32")]
)
def test_the_missing_are_asked_again_and_the_results_are_whole(run, method, transport):
    settings = {"method": method, "federation.transport": transport,
                "federation.fraction-evaluate": 0.0}  # fmt: skip
    whole, _ = run("whole", settings)
    lost = [(1, "personalize"), (2, "personalize")]
    folder, _ = run("part", settings, lost=lost)
    before = read_results(folder)
    assert [entry["client"] for entry in before["clients"]] == [0]
    assert [item["client"] for item in before["refused"]] == [1, 2]
    # Client 2 is still gone.
    again, grid = run("part", settings, "personalize-only", lost=lost[1:])
    assert again == folder
    assert grid.asked == [(1, "personalize"), (2, "personalize")]
    middle = read_results(folder)
    assert [entry["client"] for entry in middle["clients"]] == [0, 1]
    assert [(item["client"], item["kind"]) for item in middle["refused"]] == [(2, "personalize")]
    assert "this device is gone" in middle["refused"][0]["reason"]
    _, grid = run("part", settings, "personalize-only")
    assert grid.asked == [(2, "personalize")]
    results, expected = read_results(folder), read_results(whole)
    assert adapters_of(folder) == adapters_of(whole) != {}
    assert results["refused"] == results["missing"] == []
    for key in ("config", "summary", "federated_sha256"):
        assert results[key] == expected[key]
    for ours, theirs in zip(results["clients"], expected["clients"], strict=True):
        assert {**ours, "seconds": 0} == {**theirs, "seconds": 0}
    # What was sent is counted: both were asked before, and client 2 once more.
    messages = results["communication"]["messages"]
    asked = [item["client"] for item in messages if item["kind"] == "personalize"]
    assert asked == [0, 1, 1, 2, 2, 2]
    assert results["communication"]["bytes_down"] == sum(item["bytes_down"] for item in messages)
    assert len(messages) == len(expected["communication"]["messages"]) + 3
    assert client_table(results).row_count == 3
    # Now nobody is missing: nothing is sent and nothing is changed.
    files = hashes(folder)
    assert run("part", settings, "personalize-only")[1].asked == []
    assert hashes(folder) == files


def test_what_personalize_only_cannot_do_is_said_and_nothing_is_changed(run, tmp_path):
    folder, _ = run("part", lost=[(1, "personalize")])
    files = hashes(folder)
    with pytest.raises(SettingsError, match=r"merge\.rule is \"uniform\", there \"excess-loss\""):
        run("part", {"merge.rule": "uniform"}, "personalize-only")
    with pytest.raises(RunError, match=r"no client could be personalized.*this device is gone"):
        run("part", None, "personalize-only", lost=[(1, "personalize")])
    assert hashes(folder) == files
    for name in ("nowhere", "part/federated"):
        with pytest.raises(SettingsError, match=r"there is no results\.json in"):
            run(name, None, "personalize-only")
    (folder / "checkpoint.safetensors").unlink()
    with pytest.raises(SettingsError, match=r"there is no checkpoint\.safetensors in"):
        run("part", None, "personalize-only")


def test_a_lost_answer_is_given_again_from_what_is_stored(run, monkeypatch):
    # The client had finished, but its reply did not arrive.
    folder, _ = run("part", lost=[(2, "personalize", "after")])
    before = hashes(folder / "clients")
    assert [entry["client"] for entry in read_results(folder)["clients"]] == [0, 1]
    assert (folder / "clients" / "2").is_dir()

    def never(*_):
        raise AssertionError("it was done already")

    monkeypatch.setitem(
        METHODS, "potara", dataclasses.replace(METHODS["potara"], personalize=never)
    )
    run("part", None, "personalize-only")
    monkeypatch.undo()
    whole, _ = run("whole")
    results, expected = (digest(read_results(place)["clients"]) for place in (folder, whole))
    assert results == expected
    assert hashes(folder / "clients") == before


def test_a_node_with_a_state_folder_keeps_everything_there(run, settings_of, tmp_path):
    settings = {"method": "ditto"}
    places = {node: {"state-dir": str(tmp_path / f"node-{node}")} for node in (1, 2, 3)}
    whole, _ = run("whole", settings)
    folder, grid = run("run", settings, node_configs=places)
    assert not (folder / "state").exists()
    assert not (folder / "clients").exists()
    key = f"{grid.run.run_id:020d}"
    for client, node in enumerate(places):
        place = tmp_path / f"node-{node}"
        those = settings_of("run", settings)
        store = ClientStore(place, key, client, those, Workbench(those).client(client))
        assert store.state(until=2).round == 2
        own = load_adapter(place / key / str(client) / "personalized")
        assert same_bits(own, load_adapter(whole / "clients" / str(client)))
    assert read_results(folder)["digest"] == read_results(whole)["digest"]


def test_a_state_that_is_lost_on_the_way_stands_in_the_results(run, monkeypatch, tmp_path):
    real = callbacks.save_checkpoint

    def lose_state(folder, progress, *rest):
        if progress.round == 1:
            shutil.rmtree(next(folder.glob("state/*/2")))
        real(folder, progress, *rest)

    monkeypatch.setattr(callbacks, "save_checkpoint", lose_state)
    folder, _ = run("run", {"method": "ditto"})
    (missing,) = read_results(folder)["missing"]
    assert (missing["client"], missing["round"], missing["kind"]) == (2, None, "state")
    assert "2 optimizer steps, but 4 with those of the 2 rounds" in missing["reason"]


def test_a_state_folder_that_cannot_be_written_is_one_line(run, tmp_path):
    (tmp_path / "file").write_text("")
    places = {2: {"state-dir": str(tmp_path / "file" / "below")}}
    folder, _ = run("run", node_configs=places)
    results = read_results(folder)
    (refused,) = results["refused"]
    assert (refused["client"], refused["kind"]) == (1, "describe")
    assert f"{tmp_path}/file/below cannot be written (Not a directory)" in refused["reason"]
    assert "\n" not in refused["reason"]
    assert [entry["client"] for entry in results["clients"]] == [0, 2]


def test_a_client_whose_disk_is_full_is_named_and_the_run_goes_on(run, monkeypatch):
    with monkeypatch.context() as patch:
        fill_disk(patch, "*/1/.round-00002.safetensors.tmp")
        folder, _ = run("run", {"method": "ditto"})
    (refused,) = read_results(folder)["refused"]
    assert (refused["client"], refused["round"], refused["kind"]) == (1, 2, "train")
    assert "cannot be written (No space left on device)" in refused["reason"]
    assert [entry["client"] for entry in read_results(folder)["clients"]] == [0, 1, 2]


@pytest.mark.parametrize("name", [".checkpoint.safetensors.tmp", ".results.json.tmp"])
def test_a_server_whose_disk_is_full_stops_and_can_go_on(run, monkeypatch, name):
    whole, _ = run("whole")
    real, saves = callbacks.save_checkpoint, []

    def from_the_second_on(*args):
        saves.append(args)
        if len(saves) == 2:
            fill_disk(monkeypatch, f"*/{name}")
        real(*args)

    monkeypatch.setattr(callbacks, "save_checkpoint", from_the_second_on)
    with pytest.raises(StorageError) as error:
        run("full")
    monkeypatch.undo()
    assert "cannot be written (No space left on device)" in str(error.value)
    assert "\n" not in str(error.value)
    folder, _ = run("full", None, "resume")
    assert read_results(folder)["digest"] == read_results(whole)["digest"]
    assert adapters_of(folder) == adapters_of(whole)
    assert not list(folder.rglob("*.tmp"))


def test_an_adapter_that_cannot_be_saved_is_one_line(run, monkeypatch):
    save = saving.save_adapter

    def full(folder, *others):
        if "clients" in folder.parts:  # before round 1 each client tries to write one elsewhere
            raise OSError(errno.ENOSPC, "No space left on device")
        save(folder, *others)

    with monkeypatch.context() as patch:
        patch.setattr(saving, "save_adapter", full)
        with pytest.raises(RunError, match=r"clients/2 cannot be written \(No space left on dev"):
            run("run")
    folder, _ = run("run", None, "resume")
    assert len(read_results(folder)["clients"]) == 3


def test_a_hundred_clients_of_which_ten_fail_in_every_round(run):
    draw = random.Random(5)
    lost = {(client, "train", str(r)) for r in (1, 2, 3) for client in draw.sample(range(100), 10)}
    lost |= {(client, "personalize") for client in draw.sample(range(100), 10)}
    many = {
        "data.num-clients": 100, "data.partition": "iid", "data.train-samples": 4,
        "data.test-samples": 4, "data.test-fraction": 0.3, "calibration.samples": 2,
        "federation.rounds": 3, "federation.fraction-evaluate": 0.0, "method": "fedit_ft",
        "federation.min-reply-fraction": 0.9, "train.batch-size": 2, "local.steps": 1,
    }  # fmt: skip
    folder, _ = run("run", many, lost=lost)
    results = read_results(folder)
    left_out = {
        (item["client"], item["kind"], *([str(item["round"])] if item["round"] else []))
        for item in results["refused"]
    }
    assert left_out == lost
    gone = {client for client, kind, *_ in lost if kind == "personalize"}
    assert [entry["client"] for entry in results["clients"]] == sorted(set(range(100)) - gone)
    trained = {
        client: sum((client, "train", str(r)) not in lost for r in (1, 2, 3))
        for client in range(100)
    }
    for entry in results["clients"]:
        assert entry["optimizer_steps"] == trained[entry["client"]] + 1
    run("run", many, "personalize-only")
    assert len(read_results(folder)["clients"]) == 100
