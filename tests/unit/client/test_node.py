"""What a node says of itself, and what is said of a node that is wrong."""

from __future__ import annotations

import pytest

from potara_flwr.client.node import read_node
from potara_flwr.core.errors import NodeError, SettingsError
from potara_flwr.run_config import from_flat


@pytest.fixture
def named():
    return from_flat({"federation.nodes": "clinic-a, clinic-b", "data.num-clients": 2})


def test_a_client_is_the_place_of_its_name_on_the_list(named):
    assert named.federation.names == ("clinic-a", "clinic-b")
    assert read_node({"name": "clinic-b"}).client(named) == 1
    assert read_node({"name": "clinic-b", "partition-id": 1}).client(named) == 1
    assert read_node({"partition-id": 0, "num-partitions": 2}).client(named) == 0


def test_without_a_list_it_is_the_partition():
    assert read_node({"partition-id": 7}).client(from_flat({})) == 7
    assert read_node({"partition-id": 7, "name": "x"}).client(from_flat({})) == 7


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"name": "clinic-c"}, "node clinic-c: its name is not in federation.nodes; did you mean"),
        ({}, "a node: it has no name: start it with e.g. --node-config 'name=\"clinic-a\"'"),
        (
            {"name": "clinic-a", "partition-id": 1},
            "node clinic-a: it is client 0 of federation.nodes, but says partition-id=1",
        ),
    ],
)
def test_a_node_that_is_no_client_is_told_why(named, values, line):
    with pytest.raises(NodeError) as caught:
        read_node(values).client(named)
    assert line in str(caught.value)


def test_a_name_without_a_list_needs_a_partition():
    with pytest.raises(NodeError, match=r"node x: federation.nodes is empty, so start it with"):
        read_node({"name": "x"}).client(from_flat({}))


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"name": "a", "data_path": "/x"}, "node a: unknown key 'data_path' in --node-config; did"),
        ({"name": 7}, "name in --node-config is 7, but must be a text"),
        ({"name": "a", "partition-id": "0"}, "partition-id in --node-config is '0', but must be a"),
        ({"partition-id": -1}, "partition-id in --node-config is -1, but must be a whole number"),
        (
            {"name": "a", "state-dir": True},
            "state-dir in --node-config is True, but must be a text",
        ),
    ],
)
def test_wrong_keys_and_values_are_named(values, line):
    with pytest.raises(NodeError) as caught:
        read_node(values)
    assert line in str(caught.value)


def test_own_data_replaces_the_shared_ones(named, tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("text,label\n")
    node = read_node({"name": "clinic-b", "data-path": str(file)})
    data = node.settings(named, 1).data
    assert (data.path, data.partition, data.num_clients) == (str(file), "whole", 2)
    assert read_node({"name": "clinic-b"}).settings(named, 1) == named


def test_own_data_that_are_not_there_are_the_nodes_fault(named, tmp_path):
    node = read_node({"name": "clinic-b", "data-path": str(tmp_path / "b.csv")})
    with pytest.raises(NodeError, match="node clinic-b: data-path: there is no file") as caught:
        node.settings(named, 1)
    assert caught.value.client == 1
    with pytest.raises(NodeError, match=r"data-path is 'b.csv'; give an absolute path"):
        read_node({"name": "clinic-b", "data-path": "b.csv"}).settings(named, 1)


def test_the_state_folder_is_absolute(tmp_path):
    assert read_node({"partition-id": 0}).state_folder is None
    assert read_node({"name": "a", "state-dir": str(tmp_path)}).state_folder == tmp_path
    with pytest.raises(NodeError, match="node a: state-dir is 'state'; give an absolute path"):
        _ = read_node({"name": "a", "state-dir": "state"}).state_folder


def test_names_and_clients_must_be_equally_many():
    with pytest.raises(SettingsError, match=r"names 2 nodes, but data.num-clients is 8; make them"):
        from_flat({"federation.nodes": "a,b"})
    with pytest.raises(SettingsError, match=r"federation.nodes names a twice"):
        from_flat({"federation.nodes": "a,b,a", "data.num-clients": 3})
