"""Carry out a plan: kill, have what died come back, go on with the run, compare its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from potara_flwr.core.errors import RunError, StorageError
from potara_flwr.core.storage import load_record
from potara_flwr.results.folder import CHECKPOINT, RESULTS, read_results
from potara_flwr.running.flower_cli import CONNECTION, flwr, submit
from simulations.faults.plan import RESIDENT, Kill, PlannedRun
from simulations.faults.subject import NAMES, STAGES, adapters_of, settings_of
from simulations.faults.worlds import World, strike

OF_A_NODE = ("SuperNode", "ClientApp", RESIDENT)
ATTEMPTS = 6
"""More than the kills of a run: one that needs them all has not come to its end."""
SUBMIT_SECONDS = 90
START_SECONDS = 150
GONE_SECONDS = 15
"""After which a run without a ServerApp is stopped; Flower itself notices after a minute."""
POLL_SECONDS = 0.1
STATUS_SECONDS = 3.0


@dataclass
class Struck:
    """A kill, and what became of the run."""

    kill: Kill
    run: str
    strict: bool
    at_stage: int
    """In which it came, which is a later one where there was nothing to kill in the planned one."""
    when: float = field(repr=False)
    seconds: float = 0.0
    """Until the stage was finished."""
    then: str = "went on"
    left_out: list[str] = field(default_factory=list)
    equal: bool = False
    """Whether all adapters of the run's end are those of the undisturbed one."""

    @property
    def well(self) -> bool:
        """Whether it ended as it should: finished, with equal bits where nobody was left out."""
        return self.then != "lost" and (self.equal or bool(self.left_out))

    def to_json(self) -> dict[str, Any]:
        """Return it for ``faults.json``."""
        values = asdict(self) | {"well": self.well}
        del values["when"]
        return values


class Disturber:
    """Disturbs one run after the other in a world.

    Parameters
    ----------
    world : World
        Where.
    folder : Path
        Gets the results folders.
    expected : mapping
        The adapters of an undisturbed run in one process.
    say : function
        Gets lines for people.
    """

    def __init__(
        self,
        world: World,
        folder: Path,
        expected: Mapping[str, bytes],
        say: Callable[[str], None],
    ) -> None:
        self.world, self.folder, self.expected, self.say = world, folder, expected, say
        self.stage_seconds = 0.0
        """How long a round takes; of the undisturbed run."""

    def measure(self) -> bool:
        """Run undisturbed; return whether the bits are those of the in-process run."""
        results = self.folder / "undisturbed"
        self.run(PlannedRun(True, ()), results.name)
        if not (results / RESULTS).is_file():
            raise RunError(f"a run that nothing was done to has failed; see {results}")
        seconds = read_results(results)["seconds"]["rounds"]
        self.stage_seconds = seconds / (STAGES - 1)
        return self._adapters(results) == dict(self.expected)

    def run(self, planned: PlannedRun, name: str) -> tuple[list[Struck], list[Kill]]:
        """Do a planned run; return what happened, and the kills that it ended before."""
        attempt = _Attempt(self, planned, name)
        for _ in range(ATTEMPTS):
            attempt.go()
            if attempt.complete:
                break
        attempt.judge()
        return attempt.struck, attempt.pending

    def _adapters(self, results: Path) -> dict[str, bytes]:
        progress, _ = load_record(results / CHECKPOINT)
        clients = {
            client: self.world.personalized(results, progress["run_key"], client)
            for client in range(len(NAMES))
        }
        return adapters_of(results, clients)


class _Attempt:
    """The attempts at one run, one after the other."""

    def __init__(self, owner: Disturber, planned: PlannedRun, name: str) -> None:
        self.owner, self.world, self.planned, self.name = owner, owner.world, planned, name
        self.pending = list(planned.kills)
        self.struck: list[Struck] = []
        self.results = owner.folder / name
        self._stage, self._stage_begun = 1, 0.0
        self._hit = False  # whether something was killed in this stage of this attempt

    @property
    def finished(self) -> bool:
        """Whether there are results."""
        return (self.results / RESULTS).is_file()

    @property
    def complete(self) -> bool:
        """Whether every client is personalized."""
        return self.finished and len(read_results(self.results)["clients"]) == len(NAMES)

    def go(self) -> None:
        """Make one attempt: begin the run, go on with it, or ask who is missing."""
        begun = len(self.struck)
        how = {"run.results": str(self.results)}
        if self.finished:
            how = {"run.personalize-only": str(self.results)}
        elif (self.results / CHECKPOINT).is_file():
            how = {"run.resume": str(self.results)}
        elif self.results.exists():
            self.results = self.results.with_name(self.results.name + "+")
            how = {"run.results": str(self.results)}
        strict = {} if not self.planned.strict else {"federation.min-reply-fraction": 1.0}
        flat = settings_of(self.world.settings | strict | how)
        run_id = self._submit(flat)
        status = self._watch(run_id)
        (word,) = how
        self.owner.say(f"{self.name}: {word} → {status}, {self._done} rounds finished")
        if self.struck[begun:] and not self.complete:
            self.struck[-1].then = self._next(status)

    def judge(self) -> None:
        """Write down how the run has ended for all that was killed in it."""
        results = read_results(self.results) if self.complete else {"missing": [], "refused": []}
        equal = self.complete and self.owner._adapters(self.results) == dict(self.owner.expected)
        for struck in self.struck:
            struck.equal = equal
            struck.left_out = [
                f"client {item['client']}, round {item['round']}: {item['reason']}"
                for item in [*results["missing"], *results["refused"]]
                if item["kind"] == "train"
            ]
            if not self.complete:
                struck.then = "lost"
        if not self.complete:
            self.owner.say(f"{self.name}: did not come to its end in {ATTEMPTS} attempts")

    def _next(self, status: str) -> str:
        if self.finished:
            return "the missing were asked again"
        if self._done:
            return f"{status}, resumed after round {self._done}"
        return f"{status}, begun anew"

    def _submit(self, settings: Any) -> str:
        deadline = time.monotonic() + SUBMIT_SECONDS
        while True:
            self.world.mend()
            try:
                return submit(settings, self.world.environment, self.world.simulated)
            except RunError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(STATUS_SECONDS)

    def _watch(self, run_id: str) -> str:
        """Kill what is due, until the run has ended; return its status."""
        self._stage, self._stage_begun = self._done + 1, time.monotonic()
        self._hit = False
        gone_since, patience = time.monotonic(), START_SECONDS
        asked = 0.0
        while True:
            self.world.mend()
            app = self.world.app()
            now = time.monotonic()
            self._look(now)
            if app is not None:
                gone_since, patience = now, GONE_SECONDS
                self._kill(now)
            elif now - asked > STATUS_SECONDS:
                asked = now
                with suppress(RunError):
                    status = self._status(run_id)
                    if status.startswith("finished"):
                        self._look(time.monotonic())
                        return status.removeprefix("finished:")
                    if now - gone_since > patience:
                        flwr(["stop", run_id, CONNECTION], self.world.environment)
                        return "stopped"
            time.sleep(POLL_SECONDS)

    def _status(self, run_id: str) -> str:
        answer = flwr(["list", CONNECTION, "--run-id", run_id], self.world.environment)
        return str(answer["runs"][0]["status"])

    @property
    def _done(self) -> int:
        """How many rounds are finished."""
        try:
            progress, _ = load_record(self.results / CHECKPOINT)
        except StorageError:  # there is none yet
            return 0
        return int(progress["round"])

    def _look(self, now: float) -> None:
        """See whether the run has come further."""
        stage = STAGES + 1 if self.finished else self._done + 1
        if stage > self._stage:
            self._stage, self._stage_begun, self._hit = stage, now, False
        for struck in self.struck:
            if not struck.seconds and stage > struck.at_stage:
                struck.seconds = round(now - struck.when, 1)

    def _kill(self, now: float) -> None:
        """Kill what is due, if it is there."""
        if not self.pending or self.finished or self._stage < self.pending[0].stage:
            return
        kill = self.pending[0]
        if self._hit or now - self._stage_begun < kill.fraction * self.owner.stage_seconds:
            return
        victim = self.world.victim(kill)
        if victim is None or not strike(victim):
            return
        self.pending.pop(0)
        self._hit = True
        self.struck.append(Struck(kill, self.name, self.planned.strict, self._stage, now))
        whose = f" of {NAMES[kill.node]}" if kill.target in OF_A_NODE else ""
        self.owner.say(f"{self.name}: killed the {kill.target}{whose} in stage {self._stage}")
