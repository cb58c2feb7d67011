"""What one client keeps of one run, on its own disk: ``<state-dir>/<run key>/<client>/``.

A device may die at any moment, and in a deployment every message runs in a process of its own, so
whatever must outlive a message is here, and only here:

``round-<r>.safetensors``
    What the client keeps after training in round r, where it keeps anything. Round r starts from
    the newest state before r, so that a round that is asked for again, because its reply or the
    server was lost, gives the same bits. The last two are kept.
``<training>.safetensors``
    The adapter that a training after the rounds gave, with a hash of what it started from.
``personalized.safetensors``
    The report of a finished personalization, with a hash of what it was made of.
"""

from __future__ import annotations

import functools
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from potara_flwr.core.arrays import Arrays, below, members, within
from potara_flwr.core.errors import StorageError
from potara_flwr.core.storage import checksum, load_record, save_record, writing
from potara_flwr.methods.client import no_memo
from potara_flwr.models.adapter import Adapter
from potara_flwr.settings.fingerprint import fingerprint
from potara_flwr.settings.schema import Settings
from potara_flwr.tasks.base import ClientData

PERSONAL, RESIDUALS = "personal", "residuals"
_OTHER = {"run-key": "another run", "client": "another client", "settings": "other settings",
          "data": "other data: the client's rows, or their order, have changed"}  # fmt: skip
_ROUND = re.compile(r"round-(\d+)\.safetensors")


@dataclass(frozen=True)
class State:
    """What a client has after training in a round; at first nothing."""

    round: int = 0
    """The last round in which it trained; 0 is none."""
    personal: dict[str, Adapter] = field(default_factory=dict)
    """Its personal parameters, by the names that the method gives them."""
    residuals: Arrays = field(default_factory=dict)
    """What the int8 transport has rounded away."""
    steps: int = 0
    """Optimizer steps so far."""
    seconds: float = 0.0
    """Wall-clock time of these steps."""

    def arrays(self) -> Arrays:
        """Return everything but the numbers, by names with slashes."""
        arrays = within(RESIDUALS, self.residuals)
        for name, adapter in self.personal.items():
            arrays |= within(f"{PERSONAL}/{name}", _numpy(adapter))
        return arrays

    @classmethod
    def of(cls, values: Mapping[str, Any], arrays: Arrays) -> State:
        """Return the state that has these arrays."""
        personal: dict[str, Adapter] = {
            name: {part: torch.from_numpy(array) for part, array in adapter.items()}
            for name, adapter in members(below(PERSONAL, arrays)).items()
        }
        residuals = below(RESIDUALS, arrays)
        return cls(values["round"], personal, residuals, values["steps"], values["seconds"])


class ClientStore:
    """The folder of one client and one run.

    Parameters
    ----------
    state_dir : Path
        Where the client keeps everything.
    run_key : str
        Of the run, the same in every attempt to finish it.
    client : int
        Which client it is.
    settings : Settings
        Of the run; a state that was made with others is refused.
    data : ClientData
        The client's samples, likewise: where rows have come or gone since the first round, what
        was for testing could now be trained on.
    """

    def __init__(
        self, state_dir: Path, run_key: str, client: int, settings: Settings, data: ClientData
    ) -> None:
        self.folder = state_dir / run_key / str(client)
        self.client = client
        self._run_key, self._settings, self._data = run_key, settings, data

    @functools.cached_property
    def _of(self) -> dict[str, Any]:
        """Tells what is stored from what is stored of others."""
        return {
            "run-key": self._run_key,
            "client": self.client,
            "settings": fingerprint(self._settings.computed()),
            "data": checksum(_targets(self._data)),
        }

    def state(self, until: int) -> State:
        """Return the newest state of a round up to ``until``.

        Raises
        ------
        StorageError
            It is damaged, of another run or of other settings, or no longer there.
        """
        rounds = self._rounds()
        before = max((number for number in rounds if number <= until), default=0)
        if after := min((number for number in rounds if number > until), default=0):
            # This round is asked for again: does it start where it started from the first time?
            values, _ = self._load(self._place(after))
            if values["from"] != before:
                raise self._error(f"the state of round {values['from']} is no longer there")
        return State.of(*self._load(self._place(before))) if before else State()

    def save(self, state: State, before: State) -> None:
        """Store the state after a round that started from ``before``; drop older ones.

        Raises
        ------
        StorageError
            It cannot be written; the last one is there still.
        """
        values = {
            "round": state.round,
            "from": before.round,
            "steps": state.steps,
            "seconds": state.seconds,
        }
        self._save(self._place(state.round), values, state.arrays())
        for number in self._rounds() - {state.round, before.round}:
            self._place(number).unlink(missing_ok=True)

    def memo(
        self, name: str, start: Adapter, training: Callable[[], Adapter]
    ) -> tuple[Adapter, float]:
        """Return what a training gives and its seconds; it is not done again if it was done from
        this start before (:data:`~potara_flwr.methods.client.Memo`).

        Raises
        ------
        StorageError
            What is stored is damaged or foreign, or the result cannot be stored.
        """
        place = self.folder / f"{name.replace(' ', '-')}.safetensors"
        key = checksum(_numpy(start))
        if place.exists():
            values, arrays = self._load(place)
            if values["start"] == key:
                return {part: torch.from_numpy(at) for part, at in arrays.items()}, values[
                    "seconds"
                ]
        trained, seconds = no_memo(name, start, training)
        self._save(place, {"start": key, "seconds": seconds}, _numpy(trained))
        return trained, seconds

    def report(self, key: str) -> dict[str, Any] | None:
        """Return the report of the personalization with this key, if it was finished.

        Raises
        ------
        StorageError
            What is stored is damaged or foreign.
        """
        place = self.folder / "personalized.safetensors"
        values = self._load(place)[0] if place.exists() else {}
        return values["report"] if values.get("key") == key else None

    def finish(self, key: str, report: Mapping[str, Any]) -> None:
        """Store the report of a finished personalization.

        Raises
        ------
        StorageError
            It cannot be written.
        """
        self._save(self.folder / "personalized.safetensors", {"key": key, "report": report}, {})

    def _rounds(self) -> set[int]:
        """Return the rounds of which there is a state."""
        if not self.folder.is_dir():
            return set()
        matches = (_ROUND.fullmatch(place.name) for place in self.folder.iterdir())
        return {int(match[1]) for match in matches if match}

    def _place(self, server_round: int) -> Path:
        return self.folder / f"round-{server_round:05d}.safetensors"

    def _save(self, place: Path, values: Mapping[str, Any], arrays: Arrays) -> None:
        save_record(place, {"of": self._of, **values}, arrays)

    def _load(self, place: Path) -> tuple[dict[str, Any], Arrays]:
        try:
            values, arrays = load_record(place)
        except StorageError as error:
            raise self._error(str(error)) from None
        theirs = values.get("of", {})
        for name, ours in self._of.items():
            if theirs.get(name) != ours:
                raise self._error(f"{place} is of {_OTHER[name]}")
        return values, arrays

    def _error(self, words: str) -> StorageError:
        return StorageError(
            f"client {self.client}: {words}; move {self.folder} away to have the client start "
            "anew, without what it kept"
        )


def personalization_key(received: Adapter, state: State) -> str:
    """Return a hash of all that a personalization is made of besides data and settings."""
    arrays = {f"received/{name}": array for name, array in _numpy(received).items()}
    return checksum(arrays | state.arrays(), str(state.steps))


def check_writable(folder: Path) -> None:
    """Check that a state folder can be made and written.

    Raises
    ------
    StorageError
        It cannot; names the folder.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


def _targets(data: ClientData) -> Arrays:
    """Return the targets of all samples, which tell the rows and their order apart."""
    return {
        f"{part}/{name}": tensor.numpy()
        for part in ("train", "calibration", "test")
        for name, tensor in getattr(data, part).items()
        if name.startswith("labels")
    }


def _numpy(adapter: Adapter) -> Arrays:
    return {name: tensor.numpy() for name, tensor in adapter.items()}
