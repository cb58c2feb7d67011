"""A federation in one process that keeps what is sent, and runs that several tests look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flwr.app import Message

from potara_flwr.in_process import InProcessGrid, run_in_process
from potara_flwr.messages.transport import values_of
from potara_flwr.results.folder import read_results
from potara_flwr.settings.schema import Settings

SHORT = {
    "federation.rounds": 3, "federation.baseline-rounds": 3, "train.local-steps": 1,
    "local.steps": 2, "data.test-samples": 12, "lora.dropout": 0.1,
}  # fmt: skip
"""What differs from the tiny run in one of three rounds."""


class RecordingGrid(InProcessGrid):
    """Keeps every message and every reply, by what was asked."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.kept: list[tuple[str, Message, Message]] = []

    def _answer(self, message: Message) -> Message:
        reply = super()._answer(message)
        self.kept.append((message.metadata.message_type.rpartition(".")[2], message, reply))
        return reply

    @property
    def down(self) -> dict[tuple[str, str, int], dict[str, np.ndarray]]:
        """(kind, round, client) → the arrays that were sent to a client."""
        return self._arrays(1)

    @property
    def up(self) -> dict[tuple[str, str, int], dict[str, np.ndarray]]:
        """(kind, round, client) → the arrays of its reply."""
        return self._arrays(2)

    def _arrays(self, place: int) -> dict[tuple[str, str, int], dict[str, np.ndarray]]:
        found = {}
        for kept in self.kept:
            kind, metadata, part = kept[0], kept[1].metadata, kept[place]
            if part.has_content() and "arrays" in part.content.array_records:
                key = (kind, metadata.group_id, metadata.dst_node_id - 1)
                found[key] = values_of(part.content["arrays"])
        return found


class Finished(NamedTuple):
    """A run that has ended; its folder is for reading alone."""

    settings: Settings
    folder: Path
    results: dict[str, Any]
    grid: RecordingGrid


def finished(settings: Settings) -> Finished:
    """Run to the end."""
    grid = RecordingGrid(settings)
    folder = run_in_process(settings, grid)
    return Finished(settings, folder, read_results(folder), grid)
