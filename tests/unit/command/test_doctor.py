"""``potara doctor``: each check on machines that are not this one."""

from __future__ import annotations

import importlib
import os
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from safetensors.torch import load_file

from potara_flwr.command import main as command
from potara_flwr.command.checks import flower, machine, material, packages
from potara_flwr.command.checks.check import Check, fail, ok, warn
from potara_flwr.run_config import from_flat
from potara_flwr.running import composition
from potara_flwr.settings.schema import Settings

ROOT = Path(__file__).parents[3]


def test_a_check_is_one_line_with_its_remedy():
    assert str(ok("disk", "12 GB")) == "ok    disk: 12 GB"
    assert str(warn("disk", "1 GB", "make room")) == "warn  disk: 1 GB → make room"
    assert str(fail("disk", "0 GB", "make room")) == "fail  disk: 0 GB → make room"


@pytest.mark.parametrize(
    ("version", "state"), [((3, 10, 9), "fail"), ((3, 11, 0), "ok"), ((3, 12, 4), "ok"),
                           ((3, 13, 0), "ok"), ((3, 14, 0), "fail")],
)  # fmt: skip
def test_python(version, state):
    assert machine.check_python(version).state == state


def test_the_python_versions_are_those_of_pyproject():
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    first, beyond = (".".join(map(str, bound)) for bound in (machine.FIRST, machine.BEYOND))
    assert wanted == f">={first},<{beyond}"


def test_the_classifiers_are_the_python_versions_of_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (major, first), (_, beyond) = machine.FIRST, machine.BEYOND
    assert [name for name in project["classifiers"] if " :: Python :: " in name] == [
        f"Programming Language :: Python :: {major}.{minor}" for minor in range(first, beyond)
    ]


@pytest.mark.parametrize(("free", "state"), [(5e9, "ok"), (1e9, "warn"), (1e8, "fail")])
def test_a_folder_that_can_be_made_is_judged_by_its_disk(free, state, tmp_path):
    asked = []
    found = machine.check_folder(
        "results", tmp_path / "a" / "b", lambda at: asked.append(at) or free
    )
    assert found.state == state
    assert f"{free / 1e9:.1f} GB free" in found.found
    assert asked == [tmp_path]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_fails(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (Path("/proc/potara"), tmp_path / "file" / "state"):
        assert machine.check_folder("state-dir", place).state == "fail"


def test_rays_sockets_have_paths_as_long_as_ray_says(tmp_path):
    from ray._private.utils import validate_socket_filepath

    longest = machine.SOCKET_PATH - len(machine.HOME + machine.SOCKET)
    for length, state in ((longest, "ok"), (longest + 1, "fail")):
        folder = "/" + "x" * (length - 1)
        assert machine.check_ray_folder(folder).state == state
        path = folder + machine.HOME + machine.SOCKET
        if state == "ok":
            validate_socket_filepath(path)
        else:
            with pytest.raises(OSError, match="107"):
                validate_socket_filepath(path)


LINES = ["flwr[simulation]<1.43,>=1.41", "torch>=2.8", "rich<15,>=13", 'wandb>=0.17; extra == "x"']


def test_packages_are_held_against_their_ranges():
    versions = {"flwr": "1.42.1", "torch": "2.13.0+cpu", "rich": "14.3"}
    found = list(packages.check_packages(LINES, lambda name: versions.get(name, "")))
    assert [(check.state, check.name) for check in found] == [
        ("ok", "flwr"), ("ok", "torch"), ("ok", "packages"),
    ]  # fmt: skip
    versions |= {"flwr": "1.43.0", "torch": "", "rich": "15.0"}
    found = list(packages.check_packages(LINES, lambda name: versions.get(name, "")))
    assert [check.state for check in found] == ["fail"] * 3
    assert "1.43.0 is not in the range <1.43,>=1.41" in found[0].found
    assert found[1].found == "is not installed"
    assert found[2].found.startswith("rich 15.0 is not in the range")


def test_a_project_that_is_not_installed_fails():
    (found,) = packages.check_packages([])
    assert found.state == "fail"
    assert "not installed" in found.found


def test_what_torch_computes_on():
    assert packages.check_torch(Settings()).state == "ok"
    found = packages.check_torch(from_flat({"model.device": "cuda:99"}))
    assert found.state == "fail"
    assert "model.device is 'cuda:99'" in found.found


def test_flowers_variables():
    everything = dict.fromkeys(flower.VARIABLES, "1")
    assert flower.check_variables(everything).state == "ok"
    found = flower.check_variables({**everything, "FLWR_HOME": ""})
    assert (found.state, found.found) == ("warn", "FLWR_HOME not set")
    page = (ROOT / "docs" / "guides" / "flower.md").read_text()
    assert all(f"`{name}" in page for name in flower.VARIABLES)


def test_the_default_ports_are_flowers(monkeypatch):
    from flwr.cli import constant

    for name in flower.LOCAL_PORTS:
        monkeypatch.delenv(name, raising=False)
    importlib.reload(constant)
    assert list(flower.LOCAL_PORTS.values()) == [
        constant.LOCAL_SUPERLINK_HTTP_API_PORT, constant.LOCAL_CONTROL_API_PORT,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("environment", "holders", "states"),
    [
        ({}, {}, ["ok", "ok"]),
        ({}, {39091: "flower-superlink (pid 7)"}, ["ok", "ok"]),
        ({}, {39091: "nginx (pid 7)"}, ["warn", "ok"]),
        ({flower.HTTP_PORT: "5000"}, {5000: "nginx (pid 7)"}, ["fail", "ok"]),
        ({flower.HTTP_PORT: "5000"}, {39091: "nginx (pid 7)"}, ["ok", "ok"]),
        ({flower.HTTP_PORT: "http"}, {}, ["fail", "ok"]),
        ({flower.HTTP_PORT: "70000"}, {}, ["fail", "ok"]),
    ],
)
def test_ports(environment, holders, states):
    found = list(flower.check_ports(environment, lambda port: holders.get(port, "")))
    assert [check.state for check in found] == states
    for check in found:
        assert "pid 7" not in check.found or check.found.split()[0] in map(str, holders)


def test_the_holder_of_a_port_is_named():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        assert f"(pid {os.getpid()})" in flower.holder_of(port)
    assert flower.holder_of(port) == ""


def running(folder: Path | None, port: str = "39091", **more) -> flower.Running:
    return flower.Running(7, 7300.0, folder, port, more.get("python", sys.executable))


def copy_of_project(folder: Path, text: str) -> Path:
    (folder / "potara_flwr").mkdir(parents=True)
    (folder / "potara_flwr" / "merging.py").write_text(text)
    return folder


def test_no_superlink_is_fine():
    (found,) = flower.check_superlinks([])
    assert found == ok("superlink", "none is running")


def test_superlinks(tmp_path):
    project = copy_of_project(tmp_path / "project", "new")
    twin, older = copy_of_project(tmp_path / "b", "new"), copy_of_project(tmp_path / "c", "old")

    def state(one: flower.Running, environment: dict | None = None) -> Check:
        (found,) = flower.check_superlinks([one], environment or {}, project)
        return found

    assert state(running(project)).state == "ok"
    assert state(running(twin)).state == "ok"
    assert state(running(tmp_path)).state == "ok"
    assert state(running(None)).state == "ok"
    stale = state(running(older))
    assert (stale.state, stale.remedy) == ("fail", "kill 7")
    assert f"started 2 hours ago in {older}" in stale.found
    # Only the one that a plain flwr run finds, by its port, can do harm.
    assert state(running(older, "5000")).state == "ok"
    assert state(running(older, "5000"), {flower.HTTP_PORT: "5000"}).state == "fail"
    assert state(running(older), {flower.HTTP_PORT: "5000"}).state == "ok"
    assert state(running(project, python="/other/bin/python")).state == "warn"
    assert state(running(tmp_path / "gone", "5000")).state == "warn"


def test_a_running_superlink_is_found_by_its_program(tmp_path):
    script = tmp_path / "flower-superlink"
    script.write_text("import time; print('up', flush=True); time.sleep(60)")
    with subprocess.Popen(
        [sys.executable, str(script), "--port", "5432"], cwd=tmp_path, stdout=subprocess.PIPE
    ) as process:
        try:
            process.stdout.readline()
            (found,) = [one for one in flower.running_superlinks() if one.pid == process.pid]
        finally:
            process.kill()
    assert (found.folder, found.port, found.python) == (tmp_path, "5432", sys.executable)
    assert 0 <= found.seconds < 60


class FakeHub(material.Hub):
    """A hub with one folder in its cache, that answers as it is told."""

    def __init__(
        self, *, offline: bool = False, folder: Path | None = None, said: str = ""
    ) -> None:
        self.is_offline, self.folder, self.said, self.asked = offline, folder, said, []

    @property
    def offline(self) -> bool:
        return self.is_offline

    def cached(self, kind: str, name: str) -> Path | None:
        return self.folder

    def ask(self, kind: str, name: str) -> str:
        self.asked.append((kind, name))
        return self.said


def model_check(name: str | Path, hub: FakeHub | None = None) -> Check:
    return material.check_model(from_flat({"task.model": str(name)}), hub or FakeHub())


def test_models_that_are_here(tiny_model, tmp_path):
    assert model_check("digits-vit").state == "ok"
    assert model_check(tiny_model).state == "ok"
    found = model_check("some/model", FakeHub(offline=True, folder=tiny_model))
    assert (found.state, found.found) == ("ok", "some/model: in the cache")


@pytest.mark.parametrize(
    ("kind", "part"),
    [
        ("no folder", "there is no such folder"),
        ("no config", "not a readable model folder"),
        ("no weights", "it has no weights"),
        ("cut", "model.safetensors is damaged"),
        ("a shard is missing", "b.safetensors of its weights are missing"),
    ],
)
def test_models_that_are_not_whole(kind, part, tiny_model, tmp_path):
    folder = tmp_path / "model"
    weights = (tiny_model / "model.safetensors").read_bytes()
    if kind != "no folder":
        folder.mkdir()
    if kind not in ("no folder", "no config"):
        (folder / "config.json").write_bytes((tiny_model / "config.json").read_bytes())
    if kind == "cut":
        (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    if kind == "a shard is missing":
        (folder / "a.safetensors").write_bytes(weights)
        files = dict(zip(load_file(tiny_model / "model.safetensors"), "ab", strict=False))
        text = ", ".join(f'"{name}": "{file}.safetensors"' for name, file in files.items())
        (folder / "model.safetensors.index.json").write_text(f'{{"weight_map": {{{text}}}}}')
    found = model_check(folder)
    assert found.state == "fail"
    assert part in found.found
    assert found.remedy


@pytest.mark.parametrize(
    ("hub", "state", "part"),
    [
        (FakeHub(), "ok", "the first run downloads it"),
        (FakeHub(offline=True), "fail", "not in the cache, and HF_HUB_OFFLINE is set"),
        (FakeHub(said="the hub cannot be reached"), "fail", "and the hub cannot be reached"),
    ],
)
def test_models_of_the_hub(hub, state, part):
    found = model_check("some/model", hub)
    assert found.state == state
    assert part in found.found
    assert hub.asked == ([] if hub.offline else [("model", "some/model")])


def test_the_hub_in_offline_mode():
    hub = material.Hub()
    assert hub.offline
    assert hub.cached("model", "no/such-model") is None
    assert hub.ask("dataset", "a/b/c") == "it is no name that the hub could have"
    assert hub.ask("model", "no/such-model").startswith("the hub cannot be reached")


def test_a_snapshot_in_the_cache_is_found(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "datasets--some--rows"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    assert material.Hub().cached("dataset", "some/rows") == repository / "snapshots" / "abc"


def test_the_data_of_the_settings(tiny):
    found = material.check_data(tiny(), FakeHub())
    assert found.state == "ok"
    assert found.found.startswith("client 0 of 3 has 20 samples for training, 6 for calibration")
    found = material.check_data(tiny({"calibration.samples": 5000}), FakeHub())
    assert found.state == "fail"
    assert "calibration.samples is 5000" in found.found


def text_settings(**data: str) -> Settings:
    names = {f"data.{name}": value for name, value in data.items()}
    return from_flat({"task.name": "text-classification", **names})


def test_data_of_the_hub_is_only_asked_for():
    hub = FakeHub()
    found = material.check_data(text_settings(path="some/rows"), hub)
    assert (found.state, hub.asked) == ("ok", [("dataset", "some/rows")])
    hub = FakeHub(said="the hub cannot be reached")
    assert material.check_data(text_settings(path="some/rows"), hub).state == "fail"
    assert (
        material.check_data(text_settings(path="some/rows"), FakeHub(offline=True)).state == "fail"
    )


def test_data_that_is_not_there(tmp_path):
    place = tmp_path / "rows.csv"
    found = material.check_data(text_settings(path=str(place)), FakeHub())
    assert found.state == "fail"
    assert f"there is no file {place}" in found.found


def test_names_of_the_hub(tmp_path):
    names = material.hub_names
    assert names(text_settings(path=f"some/rows, {tmp_path}, rows.csv, /nowhere")) == ["some/rows"]
    assert names(from_flat({"data.datasets": "boolq"})) == ["google/boolq"]
    assert names(from_flat({"data.datasets": "boolq", "data.root": "/copies"})) == []
    assert names(Settings()) == []


def test_doctor_looks_at_this_machine_and_says_so_in_its_exit_status(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    good = [ok("flwr", "1.41.0")]
    monkeypatch.setattr(packages, "check_packages", lambda: good)
    monkeypatch.setattr(flower, "running_superlinks", list)
    status = command.main(["doctor", "--state-dir", str(tmp_path / "state")])
    *lines, last = capsys.readouterr().out.splitlines()
    names = [line[6:].partition(":")[0] for line in lines]
    assert names == [
        "python", "flwr", "flower home", "results", "state-dir", "ray folder", "hub cache",
        "flwr variables", "port", "port", "superlink", "compute", "model", "data", "preflight",
    ]  # fmt: skip
    fails = sum(line.startswith("fail") for line in lines)
    assert last.endswith(f", {fails} fail")
    assert status == (fails > 0)
    assert list(tmp_path.iterdir()) == []


def test_doctor_loads_nothing_slow_where_packages_lack(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(packages, "check_packages", lambda: [fail("torch", "lacks", "install it")])
    monkeypatch.setattr(composition, "compose_settings", lambda _: pytest.fail("loads torch"))
    assert command.main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "fail  torch: lacks → install it" in out
    assert out.splitlines()[-1].endswith(", 1 fail")


def test_doctor_refuses_wrong_settings(capsys):
    assert command.main(["doctor", "lora.rank=0"]) == 1
    assert "lora.rank is 0" in capsys.readouterr().err
