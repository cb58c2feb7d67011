"""The Kubernetes manifests, as far as they can be tried without a cluster: what they refer to is
there, and what the containers run are commands that the installed Flower reads.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from flwr.common.config import parse_config_args
from flwr.supercore.cli.flower_superexec import _parse_args as superexec_parser
from flwr.superlink.cli.flower_superlink import _parse_args_run_superlink as superlink_parser
from flwr.supernode.cli.flower_supernode import _parse_args_run_supernode as supernode_parser

from potara_flwr import __version__
from potara_flwr.client.node import read_node
from potara_flwr.running.composition import compose_settings

ROOT = Path(__file__).parents[3]
GUIDES = ROOT / "docs" / "guides"
PAGE = (GUIDES / "deployment.md").read_text()
OBJECTS = [
    found
    for file in sorted((GUIDES / "deployment" / "kubernetes").glob("*.yaml"))
    for found in yaml.safe_load_all(file.read_text())
]
WORKLOADS = {
    found["metadata"]["name"]: found
    for found in OBJECTS
    if found["kind"] in ("Deployment", "StatefulSet", "Job")
}
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
NODES = ["node-0", "node-1", "node-2"]


def of_kind(kind: str) -> dict[str, dict]:
    return {found["metadata"]["name"]: found for found in OBJECTS if found["kind"] == kind}


def pod_of(name: str) -> dict:
    return WORKLOADS[name]["spec"]["template"]["spec"]


def container_of(name: str) -> dict:
    (container,) = pod_of(name)["containers"]
    return container


def variables_of(name: str, pod: str = "node-1") -> dict[str, str]:
    """Return a container's environment, as the kubelet makes it of the manifest."""
    found: dict[str, str] = {}
    for entry in container_of(name).get("env", ()):
        value = entry.get("value", pod)
        found[entry["name"]] = re.sub(r"\$\((\w+)\)", lambda at: found[at[1]], value)
    return found


def command_of(name: str, **more: str) -> list[str]:
    """Return the command that a container's role becomes."""
    done = subprocess.run(
        [ROOT / "docker" / "entrypoint.sh", *container_of(name)["args"]],
        env={**os.environ, "PATH": PATH, "POTARA_PRINT": "1", **variables_of(name), **more},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def guide_commands(program: str) -> list[list[str]]:
    """Return the calls of a program in the guide's section on Kubernetes, each as words."""
    section = PAGE.partition("\n## Kubernetes\n")[2].partition("\n## ")[0].replace("\\\n", " ")
    return [
        shlex.split(line, comments=True)
        for line in re.findall(rf"^{program} .*$", section, re.MULTILINE)
    ]


@pytest.fixture(scope="module")
def secrets(tmp_path_factory) -> dict[str, dict[str, Path]]:
    """Return the files of every secret by their keys, made as the guide says."""
    place = tmp_path_factory.mktemp("operator")
    (words,) = guide_commands("potara credentials")
    done = subprocess.run(words, cwd=place, env={**os.environ, "PATH": PATH}, check=False)
    assert done.returncode == 0
    found: dict[str, dict[str, Path]] = {}
    for words in guide_commands("kubectl"):
        if "secret" not in words:
            continue
        files = found.setdefault(words[words.index("generic") + 1], {})
        for word in words:
            key, _, path = word.removeprefix("--from-file=").rpartition("=")
            if word.startswith("--from-file=") and (place / path).is_dir():
                files |= {file.name: file for file in (place / path).iterdir()}
            elif word.startswith("--from-file="):
                files[key or Path(path).name] = place / path
    return found


def test_every_object_has_a_name_of_its_own_and_says_what_it_is_part_of():
    names = [(found["kind"], found["metadata"]["name"]) for found in OBJECTS]
    assert len(set(names)) == len(names) > 8
    for found in OBJECTS:
        assert found["metadata"]["labels"]["app.kubernetes.io/name"] == "potara"
        assert "namespace" not in found["metadata"]
    assert set(WORKLOADS) == {"superlink", "superexec", "node", "register"}


@pytest.mark.parametrize("name", WORKLOADS)
def test_pods_are_of_the_image_and_not_rooted(name):
    pod, container = pod_of(name), container_of(name)
    assert container["image"] == f"potara-flwr:{__version__}"
    user = int(re.findall(r"^USER (.*)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)[-1])
    assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == user
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}
    }  # fmt: skip
    assert not pod["automountServiceAccountToken"]


def test_what_an_object_refers_to_is_there():
    labels = {
        name: workload["spec"]["template"]["metadata"]["labels"]
        for name, workload in WORKLOADS.items()
    }
    for name, workload in WORKLOADS.items():
        if workload["kind"] != "Job":
            assert workload["spec"]["selector"]["matchLabels"] == labels[name]
        volumes = {volume["name"]: volume for volume in pod_of(name)["volumes"]}
        claimed = workload["spec"].get("volumeClaimTemplates", ())
        mounts = {mount["name"] for mount in container_of(name)["volumeMounts"]}
        assert mounts == {*volumes, *(claim["metadata"]["name"] for claim in claimed)}
        for volume in volumes.values():
            claim = volume.get("persistentVolumeClaim")
            assert claim is None or claim["claimName"] in of_kind("PersistentVolumeClaim")
    assert WORKLOADS["node"]["spec"]["serviceName"] in of_kind("Service")
    for name, service in of_kind("Service").items():
        assert service["spec"]["selector"] == labels[name]
    for policy in of_kind("NetworkPolicy").values():
        chosen = policy["spec"]["podSelector"]["matchLabels"].items()
        assert any(chosen <= found.items() for found in labels.values())


def test_nothing_is_open_to_the_outside():
    # Whoever reaches the SuperLink's control API can have every node run code.
    assert not of_kind("Ingress")
    assert of_kind("Service")["superlink"]["spec"]["type"] == "ClusterIP"
    assert of_kind("Service")["node"]["spec"]["clusterIP"] == "None"
    (rule,) = of_kind("NetworkPolicy")["superlink"]["spec"]["ingress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": 8443}]
    assert rule["from"] == [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "potara"}}}]
    assert "ingress" not in of_kind("NetworkPolicy")["others"]["spec"]


@pytest.mark.parametrize(
    ("name", "program", "parser"),
    [
        ("superlink", ["flower-superlink"], superlink_parser),
        ("superexec", ["flower-superexec"], superexec_parser),
        ("node", ["potara", "node"], supernode_parser),
    ],
)
def test_flower_reads_the_command_and_listens_where_the_probes_ask(name, program, parser):
    command = command_of(name)
    assert command[: len(program)] == program
    read = vars(parser().parse_args(command[len(program) :]))
    assert not read.get("insecure")
    host, port = read["health_server_address"].split(":")
    container = container_of(name)
    ports = {entry["name"]: entry["containerPort"] for entry in container["ports"]}
    assert (host, int(port)) == ("0.0.0.0", ports["health"])
    assert container["livenessProbe"]["grpc"]["port"] == ports["health"]
    asked = {container[at]["tcpSocket"]["port"] for at in container if at.endswith("Probe")
             and "tcpSocket" in container[at]}  # fmt: skip
    assert asked == ({"https"} if name == "superlink" else {"health"})
    (service,) = of_kind("Service")["superlink"]["spec"]["ports"]
    if name == "superlink":
        assert (read["host"], read["port"]) == ("0.0.0.0", ports["https"])
        assert service["targetPort"] == "https"
        assert read["enable_supernode_auth"]
    else:
        address = read["superlink" if name == "node" else "runtime_api_address"]
        assert address == f"superlink:{service['port']}"


def test_a_container_finds_its_credentials_and_nothing_else(secrets):
    keys = {"superlink": set(), "superexec": set(), "register": {f"{name}.pub" for name in NODES}}
    for name, more in keys.items():
        (volume,) = [v for v in pod_of(name)["volumes"] if "secret" in v]
        words = command_of(name)
        used = {Path(word).name for word in words if word.startswith("/credentials/")}
        files = secrets[volume["secret"]["secretName"]]
        assert set(files) == used | more | ({"ca.crt"} if name == "register" else set())
    variables = variables_of("node")
    mounted = {}
    for mount in container_of("node")["volumeMounts"]:
        if mount["name"] == "keys":
            key = mount.get("subPath") or mount["subPathExpr"].replace("$(POD_NAME)", "node-1")
            mounted[mount["mountPath"]] = secrets["potara-nodes"][key]
    used = {word for word in command_of("node") if word.startswith("/credentials/")}
    assert used == set(mounted)
    folder = secrets["potara-superlink"]["ca.crt"].parents[1]
    assert mounted["/credentials/node.key"] == folder / "node-1" / "node.key"
    assert mounted["/credentials/ca.crt"].is_file()
    assert variables["POD_NAME"] == "node-1"
    assert all(file.is_file() for files in secrets.values() for file in files.values())


def test_the_nodes_are_those_that_the_run_expects(secrets):
    names = [f"node-{number}" for number in range(WORKLOADS["node"]["spec"]["replicas"])]
    assert names == NODES
    assert set(secrets["potara-nodes"]) == {"ca.crt", *(f"{name}.key" for name in names)}
    for name in names:
        node = read_node(parse_config_args([variables_of("node", name)["POTARA_NODE"]]))
        assert node.name == name
        (state,) = [m for m in container_of("node")["volumeMounts"] if m["name"] == "state"]
        assert str(node.state_folder).startswith(state["mountPath"] + "/")
    (words,) = [words for words in guide_commands("kubectl") if "exec" in words]
    assert words[-4] == "run"
    settings = compose_settings(words[-3:])
    assert settings.federation.names == tuple(names)
    assert settings.data.num_clients == len(names)
