"""The commands of the deployment guide and its units: every option is one that Flower knows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from flwr.supercore.cli.flower_superexec import _parse_args as superexec_parser
from flwr.superlink.cli.flower_superlink import _parse_args_run_superlink as superlink_parser
from flwr.supernode.cli.flower_supernode import _parse_args_run_supernode as supernode_parser

from potara_flwr.client.node import read_node

GUIDES = Path(__file__).parents[3] / "docs" / "guides"
PARSERS = {
    "flower-superlink": superlink_parser,
    "flower-superexec": superexec_parser,
    "potara node": supernode_parser,
}


def commands(name: str) -> list[str]:
    """Return the calls of a command with options, each as one line."""
    files = [GUIDES / "deployment.md", *sorted((GUIDES / "deployment").glob("*.service"))]
    text = "\n".join(file.read_text().replace("\\\n", " ") for file in files)
    return re.findall(rf"^(?:ExecStart=/opt/potara/bin/)?{name} (--.*)$", text, re.MULTILINE)


@pytest.mark.parametrize("name", PARSERS)
def test_page_and_unit_have_options_that_flower_knows(name):
    parser = PARSERS[name]()
    lines = commands(name)
    assert len(lines) == 2
    for line in lines:
        options = re.findall(r"(?<!\S)--[a-z-]+", line)
        assert options
        for option in options:
            assert option in parser._option_string_actions, (name, option)


def test_the_nodes_say_what_a_node_can_say():
    found = re.findall(r"--node-config '([^']*)'", " ".join(commands("potara node")))
    assert len(found) == 2
    for text in found:
        node = read_node(dict(re.findall(r'([a-z-]+)="([^"]*)"', text)))
        assert node.name == "clinic-a"
