"""What a node says of itself: the pairs in its SuperNode's ``--node-config``.

    flower-supernode … --node-config 'name="clinic-a" data-path="/data/a.parquet"'

A node is a client of the run, found by its ``name`` in ``federation.nodes``, or, in a simulation
or a demonstration, by its ``partition-id``. What is wrong with it is its own affair: the node is
left out by its name, and the run goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from potara_flwr.core.errors import NodeError, PotaraError, nearest
from potara_flwr.settings.schema import Settings


class Node(BaseModel):
    """A node's own settings, as its operator gives them."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        alias_generator=lambda name: name.replace("_", "-"),
    )

    name: str = ""
    """One of ``federation.nodes``."""
    partition_id: int | None = Field(None, ge=0)
    """Which client this is, where it has no name."""
    num_partitions: int = Field(0, ge=0)
    """Nodes that there are in all; 0 where nobody says."""
    data_path: str = ""
    """File or folder whose rows are all this node's own; empty: its share of ``data.path``."""
    state_dir: str = ""
    """Where it keeps what must outlive a message; empty: the results folder."""

    def __str__(self) -> str:
        """Name the node in a line for people."""
        if self.name:
            return f"node {self.name}"
        number = self.partition_id
        return "a node" if number is None else f"node with partition-id {number}"

    def client(self, settings: Settings) -> int:
        """Return the client this node is.

        Raises
        ------
        NodeError
            It does not say, or its name is not on the list.
        """
        names = settings.federation.names
        if self.name and names:
            if self.name not in names:
                known = nearest(self.name, names)
                raise NodeError(f"{self}: its name is not in federation.nodes{known}")
            client = names.index(self.name)
            if self.partition_id not in (None, client):
                raise NodeError(
                    f"{self}: it is client {client} of federation.nodes, but says "
                    f"partition-id={self.partition_id}; leave partition-id out",
                    client,
                )
            return client
        if self.partition_id is None:
            remedy = "federation.nodes is empty, so" if self.name else "it has no name:"
            key = "partition-id=0" if not names else f'name="{names[0]}"'
            raise NodeError(f"{self}: {remedy} start it with e.g. --node-config '{key}'")
        return self.partition_id

    def settings(self, settings: Settings, client: int, classes: str = "") -> Settings:
        """Return a run's settings as they hold on this node: with its own data, if it has some,
        whose labels mean what they mean in the run.

        Parameters
        ----------
        client : int
            Which client the node is.
        classes : str
            Those of the run, as ``data.classes`` would name them, where the server knows them.

        Raises
        ------
        NodeError
            Nothing is at ``data-path``.
        """
        if not self.data_path:
            return settings
        place = _absolute("data-path", self.data_path, self, client)
        if not place.exists():
            raise NodeError(f"{self}: data-path: there is no file or folder {place}", client)
        own = {
            "path": str(place), "name": "", "datasets": "", "partition": "whole",
            "partition_column": "",
        }  # fmt: skip
        if classes:
            own["classes"] = classes
        return settings.model_copy(update={"data": settings.data.model_copy(update=own)})

    @property
    def state_folder(self) -> Path | None:
        """The absolute path of ``state-dir``; None where the node has none.

        Raises
        ------
        NodeError
            It is not absolute: what runs on a node has no working directory of its own.
        """
        return _absolute("state-dir", self.state_dir, self) if self.state_dir else None

    def fault(self, error: PotaraError, client: int) -> NodeError:
        """Return an error as one of this node's own."""
        if isinstance(error, NodeError):
            return error
        place = f" (data-path {self.data_path})" if self.data_path else ""
        return NodeError(f"{self}{place}: {error}", client)


def read_node(values: Mapping[str, Any], names: Sequence[str] = ()) -> Node:
    """Read a node's ``--node-config``.

    Parameters
    ----------
    names : sequence of str
        ``federation.nodes``: a node whose name is there is known even if all else is wrong.

    Raises
    ------
    NodeError
        A key is unknown or has a value of the wrong type; names the node where it has a name.
    """
    client = names.index(values["name"]) if values.get("name") in names else None
    keys = {key.replace("_", "-"): field for key, field in Node.model_fields.items()}
    who = f"node {values['name']}" if values.get("name") else "a node"
    for key in values:
        if key not in keys:
            raise NodeError(
                f"{who}: unknown key {key!r} in --node-config{nearest(key, keys)}", client
            )
    try:
        return Node.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        kind = {"name": "a text", "data-path": "a text", "state-dir": "a text"}.get(
            str(first["loc"][0]), "a whole number ≥ 0"
        )
        raise NodeError(
            f"{who}: {first['loc'][0]} in --node-config is {first['input']!r}, but must be {kind}",
            client,
        ) from None


def _absolute(key: str, text: str, node: Node, client: int | None = None) -> Path:
    place = Path(text).expanduser()
    if not place.is_absolute():
        raise NodeError(f"{node}: {key} is {text!r}; give an absolute path", client)
    return place
