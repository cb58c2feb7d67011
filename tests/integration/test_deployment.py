"""A real federation: TLS, node keys, real SuperNodes. Equal bits, a kill, and who is not let in."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from own_processes import HANGING, own_processes
from rich.console import Console

from potara_flwr.in_process import run_in_process
from potara_flwr.results.folder import read_results
from potara_flwr.run_config import from_flat
from potara_flwr.running.credentials import Authority
from potara_flwr.running.display import LiveDisplay
from potara_flwr.running.federation import federation
from potara_flwr.running.flower_cli import flwr, run_app
from potara_flwr.running.flower_runtime import run_with_flower
from simulations.faults.disturbing import Disturber
from simulations.faults.local import finish
from simulations.faults.plan import Kill, PlannedRun
from simulations.faults.subject import NAMES, adapters_here, adapters_of, settings_of
from simulations.faults.worlds import RealProcesses

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    before = own_processes()
    """One of the nodes is warm, the other starts a process anew for every message."""
    with federation(tmp_path_factory.mktemp("federation"), NAMES, cold=NAMES[1:]) as running:
        assert len(own_processes() - before) >= 2 + len(NAMES)
        yield running
    assert not own_processes() - before


@pytest.fixture(scope="module")
def settings(tiny, tmp_path_factory):
    """What is kept between rounds: an individual adapter, a mixer, and what int8 has rounded away,
    on clients and server.
    """
    overrides = {
        "method": "fedalt",
        "federation.rounds": 1,
        "local.steps": 2,
        "data.num-clients": 2,
        "federation.nodes": ",".join(NAMES),
        "federation.transport": "int8",
        "federation.fraction-evaluate": 0.0,
    }
    return tiny({**overrides, "run.results": str(tmp_path_factory.mktemp("runs") / "real")})


@pytest.fixture(scope="module")
def here(settings):
    """The results folder of the run in this process."""
    place = str(Path(settings.run.results).with_name("here"))
    return run_in_process(from_flat(settings.to_flat() | {"run.results": place}))


@pytest.mark.slow
def test_ray_gives_the_bits_of_one_process(settings, here, tmp_path):
    unnamed = settings.to_flat() | {"federation.nodes": "", "run.results": str(tmp_path / "ray")}
    with LiveDisplay(Console(quiet=True)) as display:
        run_with_flower(from_flat(unnamed), display)
    assert adapters_here(tmp_path / "ray") == adapters_here(here) != {}


def test_real_nodes_give_the_bits_of_one_process(running, settings, here):
    place = Path(settings.run.results)
    running.nodes[NAMES[0]].wait_for("warm: ", HANGING)
    with LiveDisplay(Console(quiet=True)) as display:
        run_app(settings, running.environment, display, "on SuperNodes")

    real, local = read_results(place), read_results(here)
    assert real["digest"] == local["digest"]
    assert real["rows"] == local["rows"]
    assert real["rows"]["found"] > 0
    assert [one["rows"] for one in real["clients"]] == [one["rows"] for one in local["clients"]]
    assert [client["name"] for client in real["clients"]] == list(NAMES)
    kinds = [message["kind"] for message in real["communication"]["messages"]]
    assert kinds == ["describe"] * 2 + ["train"] * 4 + ["personalize"] * 2

    clients = {}
    for client, name in enumerate(NAMES):
        state = running.folder / "nodes" / name / "state"
        assert (state / "data" / f"client-{client}.safetensors").is_file()
        (clients[client],) = state.glob(f"*/{client}/personalized")
    expected = adapters_here(here)
    assert len(expected) == 2 * 2
    assert adapters_of(place, clients) == expected

    warm, cold = (running.nodes[name].output() for name in NAMES)
    # The first message finds the libraries, those after it base model and samples.
    found = [warm.count(word) for word in ("has what process", "has the libraries of", "cold: ")]
    assert sum(found) == 4
    assert found[0] >= 1
    assert warm.count("holds the base model") == warm.count("and the samples of client 0") >= 1
    assert "warm: " not in cold


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "then"),
    [("ServerApp", "stopped, resumed after round 1"), ("resident process", "went on")],
)
def test_a_run_in_which_a_process_is_killed_ends_with_the_same_bits(
    running, tmp_path, target, then
):
    finish(settings_of({}), tmp_path / "whole", tmp_path / "whole.log")
    world = RealProcesses(running)
    disturber = Disturber(world, tmp_path, adapters_here(tmp_path / "whole"), say=print)
    kill = Kill(target, stage=2, fraction=0.0, node=0)
    (struck,), left = disturber.run(PlannedRun(strict=True, kills=(kill,)), "disturbed")
    assert (struck.at_stage, struck.then) == (2, then)
    assert struck.equal
    assert left == []


def test_who_is_not_let_in(running):
    unregistered = running.add_node("unregistered", {"name": NAMES[0]}, registered=False)
    other = running.folder / "other.crt"
    Authority(days=1).write(other)
    deceived = running.add_node("deceived", {"name": NAMES[1]}, ca_certificate=other)
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"http://{running.address}/health", trust_env=False)
    unregistered.wait_for("Failed to activate SuperNode")
    deceived.wait_for("CERTIFICATE_VERIFY_FAILED")
    online = [node["status"] for node in flwr(["supernode", "list"], running.environment)["nodes"]]
    assert sorted(online) == ["online", "online", "registered"]


def test_private_keys_are_for_their_owner_alone(running):
    keys = [running.folder / "server.key", *(running.folder / "nodes").glob("*/node.key")]
    assert len(keys) >= 3
    assert {oct(file.stat().st_mode & 0o777) for file in keys} == {"0o600"}


def test_a_deployment_that_is_stopped_leaves_nothing_running(tmp_path):
    before = own_processes()
    with subprocess.Popen(
        [sys.executable, "-m", "potara_flwr.command", "deploy", "--nodes", "1", "--results",
         str(tmp_path / "run")],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    ) as process:  # fmt: skip
        lines = iter(process.stdout.readline, "")
        assert any(line.startswith("connected to 127.0.0.1:") for line in lines)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=HANGING)
    assert (process.returncode, errors.strip()) == (130, "error: stopped by the user")
    assert not own_processes() - before
    assert not (tmp_path / "run").exists()
