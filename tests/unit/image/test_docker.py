"""The image and the compose file, as far as they can be tried without a Docker engine.

``tests/helpers/compose-spec.json`` is the schema of the Compose Specification
(https://github.com/compose-spec/compose-spec, commit 170098b, Apache-2.0).
"""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import jsonschema
import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key
from flwr.common.config import parse_config_args
from flwr.supercore.grpc_health import run_health_server_grpc_no_tls

from potara_flwr import __version__
from potara_flwr.client.node import read_node
from potara_flwr.running.composition import compose_settings
from potara_flwr.settings.schema import schema

ROOT = Path(__file__).parents[3]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
NODES = [name for name in SERVICES if SERVICES[name].get("command") == ["supernode"]]
STATE = "/var/lib/potara"
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


def entrypoint(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / "docker" / "entrypoint.sh", *words],
        env={**os.environ, "PATH": PATH, **variables}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def command_of(*words: str, **variables: str) -> list[str]:
    """Return the command that a role becomes."""
    done = entrypoint(*words, POTARA_PRINT="1", **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def credentials(tmp_path_factory) -> Path:
    """What the service ``credentials`` makes."""
    folder = tmp_path_factory.mktemp("credentials")
    done = entrypoint(*SERVICES["credentials"]["command"], POTARA_CREDENTIALS=str(folder))
    assert done.returncode == 0, done.stderr
    return folder


def test_hadolint_has_nothing_to_say():
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run(
        [hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_is_not_rooted_and_has_this_version():
    assert re.findall(r"^USER (.*)", DOCKERFILE, re.MULTILINE)[-1] == "10001"
    assert f'image.version="{__version__}"' in DOCKERFILE
    assert {service["image"] for service in SERVICES.values()} == {f"potara-flwr:{__version__}"}


def test_what_the_image_copies_is_not_ignored():
    ignore = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] != "#"]
    assert ignore[0] == "*"
    kept = {line.removeprefix("!") for line in ignore if line.startswith("!")}
    assert all((ROOT / name).exists() for name in kept)
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE)
    sources = {Path(source).parts[0] for line in copied for source in line.split() if source != "."}
    assert sources <= kept
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert {*wheel["packages"], *wheel["force-include"], project["project"]["readme"]} <= kept


def test_requirements_are_the_projects():
    done = subprocess.run(
        [sys.executable, ROOT / "docker" / "requirements.py", ROOT / "pyproject.toml"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert done.stdout.splitlines() == project["dependencies"]


def test_compose_is_as_the_specification_has_it():
    rules = json.loads((ROOT / "tests" / "helpers" / "compose-spec.json").read_text())
    validator = jsonschema.Draft7Validator(rules)
    validator.validate(COMPOSE)
    assert not validator.is_valid({"services": {"a": {"comand": "b"}}})


def test_no_port_is_open_to_the_outside():
    # Whoever reaches the SuperLink's control API can have every node run code.
    assert not any("ports" in service for service in SERVICES.values())


def test_what_a_service_names_is_there(credentials):
    mounted = set()
    for name, service in SERVICES.items():
        for other, how in service.get("depends_on", {}).items():
            task = SERVICES[other]["restart"] == "no"
            assert (how["condition"] == "service_completed_successfully") == task, (name, other)
            if how["condition"] == "service_healthy":
                # The image's check, asked at other times.
                assert not {"test", "disable"} & set(SERVICES[other].get("healthcheck", {}))
        targets = {volume["target"]: volume for volume in service["volumes"]}
        assert set(targets) <= {STATE, "/credentials"}
        mounted |= {volume["source"] for volume in service["volumes"]}
        if name == "credentials":
            continue
        assert targets["/credentials"]["read_only"]
        assert (credentials / targets["/credentials"]["volume"]["subpath"]).is_dir()
    assert mounted == set(COMPOSE["volumes"])


def test_all_that_lasts_is_in_a_volume_of_its_own():
    places = {
        name: volume["source"]
        for name, service in SERVICES.items()
        for volume in service["volumes"]
        if volume["target"] == STATE
    }
    # The ServerApp writes results where the command that waits for them reads them.
    assert places.pop("run") == places["superexec"]
    assert set(places) == {"superlink", "superexec", *NODES}
    assert len(set(places.values())) == len(places)
    assert f"VOLUME {STATE}" in DOCKERFILE
    assert f"FLWR_HOME={STATE}" in DOCKERFILE


def test_nodes_are_those_that_the_run_expects():
    assert len(NODES) == 3
    assert SERVICES["credentials"]["command"][1:] == NODES
    for name in NODES:
        node = read_node(parse_config_args([SERVICES[name]["environment"]["POTARA_NODE"]]))
        assert node.name == name
        assert str(node.state_folder).startswith(f"{STATE}/")
        assert name in SERVICES["run"]["depends_on"]
        assert {"source": name} in [{"source": v["source"]} for v in SERVICES[name]["volumes"]]
    assert SERVICES["run"]["entrypoint"][1] == "run"
    settings = compose_settings(SERVICES["run"]["entrypoint"][2:])
    assert settings.federation.names == tuple(NODES)


def test_roles_find_their_credentials_and_nothing_else(credentials):
    for name in ("superlink", "superexec", *NODES):
        service = SERVICES[name]
        (subpath,) = [v["volume"]["subpath"] for v in service["volumes"] if "volume" in v]
        folder = credentials / subpath
        variables = {"POTARA_CREDENTIALS": str(folder), **service.get("environment", {})}
        words = command_of(*service["command"], **variables)
        used = {Path(word) for word in words if word.startswith(str(folder))}
        assert used
        assert all(file.is_file() for file in used)
        assert {file.name for file in folder.iterdir()} - {"node.key.pub"} == {f.name for f in used}
    assert {file.name for file in (credentials / "client").iterdir()} == {
        "ca.crt", *(f"{name}.pub" for name in NODES),
    }  # fmt: skip


def parsers() -> dict:
    """Return Flower's own parser of each role's command."""
    from flwr.supercore.cli.flower_superexec import _parse_args
    from flwr.superlink.cli.flower_superlink import _parse_args_run_superlink
    from flwr.supernode.cli.flower_supernode import _parse_args_run_supernode

    return {
        "superlink": _parse_args_run_superlink,
        "superexec": _parse_args,
        "supernode": _parse_args_run_supernode,
    }


@pytest.mark.parametrize("role", ["superlink", "superexec", "supernode"])
def test_flower_can_read_the_command_of_a_role(role):
    command = command_of(role, POTARA_NODE='name="a" partition-id=0')
    program = ["potara", "node"] if role == "supernode" else [f"flower-{role}"]
    words = command[len(program) :]
    assert command[: len(program)] == program
    assert (Path(sys.executable).parent / program[0]).is_file()
    read = vars(parsers()[role]().parse_args(words))
    assert read["health_server_address"] == "127.0.0.1:8001"
    assert not read.get("insecure")
    if role == "superlink":
        assert (read["host"], read["port"], read["isolation"]) == ("0.0.0.0", 8443, "process")
        assert read["enable_supernode_auth"]
    if role == "supernode":
        assert read["node_config"] == 'name="a" partition-id=0'
        assert read["superlink"] == "superlink:8443"


def test_further_words_go_to_the_command():
    assert command_of("superexec", "--executor", "subprocess")[-2:] == ["--executor", "subprocess"]
    assert command_of("doctor", "seed=1") == ["potara", "doctor", "seed=1"]
    assert command_of() == ["potara", "--help"]
    run = command_of("run", "seed=1", "merge.rule=grid")
    assert run == ["python", str(ROOT / "docker" / "submit.py"), "seed=1", "merge.rule=grid"]
    assert {word.partition("=")[0] for word in run[2:]} <= dict(schema()).keys()


def test_a_node_must_say_what_it_is():
    done = entrypoint("supernode", POTARA_PRINT="1")
    assert done.returncode != 0
    assert "POTARA_NODE: says what this node is" in done.stderr


def test_credentials_are_what_flower_reads(credentials):
    authority = x509.load_pem_x509_certificate((credentials / "client/ca.crt").read_bytes())
    server = x509.load_pem_x509_certificate((credentials / "superlink/server.crt").read_bytes())
    server.verify_directly_issued_by(authority)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["superlink", "localhost"]
    for name in NODES:
        private = load_ssh_private_key((credentials / name / "node.key").read_bytes(), None)
        public = load_ssh_public_key((credentials / "client" / f"{name}.pub").read_bytes())
        assert private.public_key() == public
        assert public.curve.name == "secp384r1"
    for file in credentials.rglob("*"):
        if file.is_file():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not list(credentials.rglob("ca.key"))


def test_a_tls_connection_comes_to_be(credentials):
    folder = credentials / "superlink"
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "server.crt", folder / "server.key")
    client = ssl.create_default_context(cafile=credentials / "node-0" / "ca.crt")
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(into, out, server_hostname="superlink")
    answering = server.wrap_bio(out, into, server_side=True)
    done = set()
    for _ in range(4):
        for side in (asking, answering):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            done.add(side)
    assert done == {asking, answering}


def test_credentials_are_made_once(tmp_path):
    def make(*nodes: str) -> dict[str, bytes]:
        done = entrypoint("credentials", *nodes, POTARA_CREDENTIALS=str(tmp_path))
        assert done.returncode == 0, done.stderr
        files = [file for file in tmp_path.rglob("*") if file.is_file()]
        return {str(file.relative_to(tmp_path)): file.read_bytes() for file in files}

    first = make("a")
    assert make("a") == first
    assert make("a", "b").items() > first.items()
    (tmp_path / "superlink" / "server.key").unlink()
    (tmp_path / "superlink").rename(tmp_path / "superlink.new")  # as if it had been interrupted
    again = make("a")
    assert again["superlink/ca.crt"] == again["a/ca.crt"] != first["superlink/ca.crt"]
    assert again["a/node.key"] == first["a/node.key"]


def test_credentials_that_cannot_be_made_say_why(tmp_path):
    done = entrypoint("credentials", POTARA_CREDENTIALS=str(tmp_path), POTARA_NAMES="DNS:,")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert not (tmp_path / "superlink").exists()


def health_of(address: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "docker" / "health.py"],
        env={**os.environ, "POTARA_HEALTH": address}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_health_is_what_the_process_says():
    server = run_health_server_grpc_no_tls("127.0.0.1:0")
    try:
        assert health_of(server.bound_address).returncode == 0
    finally:
        server.stop(None).wait()
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        done = health_of(f"127.0.0.1:{silent.getsockname()[1]}")
    assert done.returncode == 1
    assert done.stderr == "no answer: UNAVAILABLE\n"
