"""All that a server needs to go on after a round, in one file of the results folder.

No state of a random generator is in it: which clients take part in a round, and every draw on a
client, come from the seed and the round's number (:mod:`potara_flwr.core.seeds`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from logging import WARNING
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord
from flwr.supercore import log

from potara_flwr.core.arrays import Arrays, below, within
from potara_flwr.core.errors import StorageError
from potara_flwr.core.storage import load_record, save_record
from potara_flwr.core.version import code_version
from potara_flwr.messages.transport import record_of, values_of
from potara_flwr.results.folder import CHECKPOINT
from potara_flwr.settings.fingerprint import check_same
from potara_flwr.settings.schema import Settings
from potara_flwr.strategies.lora_averaging import LoraAveraging


@dataclass(frozen=True)
class Progressed:
    """How far a run is: everything but tensors."""

    run_key: str
    """Flower's id of the first attempt at the run; the clients' state is found by it."""
    round: int
    """The last round that is finished."""
    config: dict[str, Any]
    """The settings that decide numbers."""
    classes: list[str]
    """By name, those of the head that all clients share."""
    code: str
    """The version of this package that wrote it."""
    rounds: list[dict[str, Any]]
    """What ``results.json`` says of every round."""
    ledger: dict[str, Any]
    """What it says of the communication, of refused replies and missing clients."""
    seconds: dict[str, float]
    """By phase."""
    interruptions: int = 0
    """Attempts that may have ended within a round whose average was sent already."""


@dataclass(frozen=True)
class Checkpoint:
    """A run after a round."""

    progress: Progressed
    server: Arrays
    """The server's arrays."""
    strategy: Arrays
    """What the strategy carries from round to round."""

    def restore(self, strategy: LoraAveraging) -> ArrayRecord:
        """Put a new strategy where the old one was; return the server's arrays."""
        arrays = record_of(self.server)
        strategy.restore(self.strategy, arrays)
        return arrays


def save_checkpoint(
    folder: Path, progress: Progressed, strategy: LoraAveraging, arrays: ArrayRecord
) -> None:
    """Write the checkpoint after a round in the place of the one before, whole or not at all.

    Raises
    ------
    StorageError
        It cannot be written; the last one is there still.
    """
    state = within("server", values_of(arrays)) | within("strategy", strategy.state(arrays))
    save_record(folder / CHECKPOINT, asdict(progress), state)


def load_checkpoint(folder: Path, settings: Settings) -> Checkpoint:
    """Read the checkpoint of a run with the same settings.

    Raises
    ------
    SettingsError
        A setting differs; names all that do.
    StorageError
        The file is damaged.
    """
    values, arrays = load_record(folder / CHECKPOINT)
    try:
        progress = Progressed(**values)
    except TypeError as error:
        raise StorageError(f"{folder / CHECKPOINT} is of another version: {error}") from None
    check_same(settings, progress.config, settings.run.earlier[0], str(folder))
    if progress.code != code_version():
        log(
            WARNING,
            "%s: the run in %s was begun with version %s of potara_flwr, this is %s: it may end "
            "with other bits",
            settings.run.earlier[0],
            folder,
            progress.code,
            code_version(),
        )
    return Checkpoint(progress, below("server", arrays), below("strategy", arrays))
