"""Runs that die and go on: the bits and the numbers of a run that nothing happened to."""

from __future__ import annotations

import shutil

import pytest
from recording import SHORT

from potara_flwr import client_app
from potara_flwr.core.errors import SettingsError, StorageError
from potara_flwr.in_process import InProcessGrid, run_in_process
from potara_flwr.methods import METHODS, potara
from potara_flwr.methods import client as client_module
from potara_flwr.results.folder import read_results
from potara_flwr.server import checkpoint
from potara_flwr.training import local_steps as training

pytestmark = pytest.mark.integration


class Killed(BaseException):
    """The process is gone."""


class DyingGrid(InProcessGrid):
    """Dies before it answers a message: the n-th of a kind in a round."""

    def __init__(self, settings, kind="", server_round="", after=0):
        super().__init__(settings)
        self.when, self.after = (kind, server_round), after

    def _answer(self, message):
        metadata = message.metadata
        if (metadata.message_type, metadata.group_id) == self.when:
            if not self.after:
                raise Killed
            self.after -= 1
        return super()._answer(message)


@pytest.fixture
def attempt(tiny, tmp_path):
    """Run, with more settings, and die at a message; return the results folder."""

    def go(name, overrides, *when, resume=False):
        place = {"run.resume" if resume else "run.results": str(tmp_path / name)}
        settings = tiny({**SHORT, **overrides, **place})
        grid = DyingGrid(settings, *when)
        if not when:
            return run_in_process(settings, grid)
        with pytest.raises(Killed):
            run_in_process(settings, grid)
        return tmp_path / name

    return go


def files_of(folder):
    """Return the bytes of every adapter."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for part in ("federated", "clients")
        for file in sorted((folder / part).rglob("*.safetensors"))
    }


def assert_same(folder, undisturbed):
    assert files_of(folder) == files_of(undisturbed) != {}
    assert read_results(folder)["digest"] == read_results(undisturbed)["digest"]
    assert not list(folder.rglob("*.tmp"))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_goes_on_as_if_nothing_had_happened(attempt, int8_run_of, method):
    # After one round, and when two of three clients have trained in the next one already.
    settings = {"method": method, "federation.transport": "int8"}
    when = ("train", "2", 2) if METHODS[method].trainings else ("query.personalize", "", 2)
    folder = attempt("killed", settings, *when)
    assert not (folder / "results.json").exists()
    assert_same(attempt("killed", settings, resume=True), int8_run_of(method).folder)


@pytest.mark.parametrize(
    ("method", "overrides"),
    [
        ("potara", {"federation.fraction-evaluate": 0.0, "federation.fraction-train": 0.7}),
        ("fedalt", {"federation.fraction-evaluate": 0.4, "federation.transport": "int8"}),
        ("fedalt", {"federation.fraction-evaluate": 0.4, "federation.transport": "bfloat16"}),
        ("fedit", {"federation.fraction-evaluate": 0.0, "federation.transport": "int8",
                   "federation.aggregation": "exact"}),
        ("ditto", {"task.head": "local"}),
    ],
)  # fmt: skip
def test_a_run_may_die_again_and_again(attempt, method, overrides):
    settings = {"method": method, **overrides}
    attempt("killed", settings, "train", "2")
    for when in (("train", "2", 1), ("train", "3"), ("query.personalize", "", 1)):
        attempt("killed", settings, *when, resume=True)
    assert_same(attempt("killed", settings, resume=True), attempt("whole", settings))


def test_a_run_killed_in_the_midst_of_evaluation_takes_that_round_anew(attempt):
    attempt("killed", {"method": "ditto"}, "evaluate", "2", 1)
    folder = attempt("killed", {"method": "ditto"}, resume=True)
    assert_same(folder, attempt("whole", {"method": "ditto"}))


@pytest.fixture
def trainings(monkeypatch):
    """Write down every local training that is really done."""
    done = []

    def counted(*args, steps, who, **kwargs):
        if "local training" in who:
            done.append((who, steps))
        return training.train(*args, steps=steps, who=who, **kwargs)

    monkeypatch.setattr(client_module, "train", counted)
    return done


@pytest.mark.parametrize("method", [name for name, row in METHODS.items() if row.local_phase])
def test_no_local_adapter_is_trained_twice(attempt, method, trainings, monkeypatch):
    def die(*_):
        raise Killed

    settings = {"method": method}
    whole = attempt("whole", settings)
    expected = sorted(trainings)
    trainings.clear()
    # Client 0 dies in the middle, then with everything trained and nothing saved, twice.
    for module, name in (
        (potara, "gather_evidence"), (client_app, "save_client"),
        (client_app, "save_client"),
    ):  # fmt: skip
        if name == "gather_evidence" and method != "potara":
            continue
        with monkeypatch.context() as patch:
            patch.setattr(module, name, die)
            begun = (whole.parent / "killed").exists()
            with pytest.raises(Killed):
                attempt("killed", settings, resume=begun)
    assert_same(attempt("killed", settings, resume=True), whole)
    assert sorted(trainings) == expected != []


def test_refused_folders_and_settings_are_named(attempt, tiny, tmp_path):
    attempt("killed", {}, "train", "2")
    with pytest.raises(SettingsError) as error:
        attempt("killed", {"lora.rank": 3, "seed": 1}, resume=True)
    assert "seed is 1, there 0; lora.rank is 3, there 2" in str(error.value)
    assert "only those of run.* may differ" in str(error.value)
    folder = attempt("killed", {"run.tracker": "tensorboard"}, resume=True)
    with pytest.raises(SettingsError, match="is already finished"):
        attempt("killed", {}, resume=True)
    before = files_of(folder)
    with pytest.raises(SettingsError, match="already used by another run"):
        attempt("killed", {})
    assert files_of(folder) == before
    with pytest.raises(SettingsError, match=r"there is no checkpoint\.safetensors in .*nowhere"):
        attempt("nowhere", {}, resume=True)
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(SettingsError, match=r"leave out run\.results"):
        attempt("killed", {"run.results": str(tmp_path / "other")}, resume=True)


def test_other_code_is_said(attempt, monkeypatch, caplog):
    folder = attempt("killed", {}, "train", "2")
    monkeypatch.setattr(checkpoint, "code_version", lambda: "0123456789ab")
    with caplog.at_level("WARNING"):
        assert attempt("killed", {}, resume=True) == folder
    (line,) = [record.message for record in caplog.records if "0123456789ab" in record.message]
    assert "it may end with other bits" in line


def test_a_run_that_dies_in_its_first_round_leaves_nothing(attempt, tmp_path):
    folder = attempt("killed", {}, "train", "1", 2)
    assert not folder.exists()


def test_damaged_files_are_named_and_never_used(attempt, tmp_path):
    folder = attempt("killed", {"method": "ditto"}, "train", "2")
    copy = shutil.copytree(folder, tmp_path / "copy")

    def damage(place):
        data = bytearray(place.read_bytes())
        data[-1] ^= 1
        place.write_bytes(data)

    damage(folder / "checkpoint.safetensors")
    with pytest.raises(StorageError, match=r"checkpoint\.safetensors is damaged: its checksum"):
        attempt("killed", {"method": "ditto"}, resume=True)
    (folder / "checkpoint.safetensors").write_bytes(b"no such thing")
    with pytest.raises(StorageError, match=r"checkpoint\.safetensors is damaged, or no such file"):
        attempt("killed", {"method": "ditto"}, resume=True)

    (state,) = copy.glob("state/*/1/round-00001.safetensors")
    damage(state)
    results = read_results(attempt("copy", {"method": "ditto"}, resume=True))
    refused = [item for item in results["refused"] if item["kind"] == "train"]
    assert [(item["client"], item["round"]) for item in refused] == [(1, 2), (1, 3)]
    assert "round-00001.safetensors is damaged: its checksum is wrong; move" in refused[0]["reason"]
    assert [entry["client"] for entry in results["clients"]] == [0, 2]


def test_a_state_that_is_gone_is_not_begun_anew(attempt):
    folder = attempt("killed", {"method": "ditto"}, "evaluate", "3")
    for state in folder.glob("state/*/1/round-00002.safetensors"):
        state.unlink()
    results = read_results(attempt("killed", {"method": "ditto"}, resume=True))
    (refused,) = results["refused"]
    assert (refused["client"], refused["round"], refused["kind"]) == (1, 3, "train")
    assert "the state of round 2 is no longer there" in refused["reason"]
