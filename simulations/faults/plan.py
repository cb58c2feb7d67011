"""What is killed, and when: drawn from a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from simulations.faults.subject import NAMES, STAGES

RESIDENT = "resident process"
PROCESSES = ("ServerApp", "SuperLink", "superexec", "SuperNode", "ClientApp", RESIDENT)
"""What is killed in a federation of real processes."""

ACTOR = "Ray actor"
TARGETS = (*PROCESSES, ACTOR)


@dataclass(frozen=True)
class Kill:
    """One SIGKILL."""

    target: str
    """One of ``TARGETS``."""
    stage: int
    """The round in which it comes; after the last round, the personalization."""
    fraction: float
    """Of the time that a stage takes, from its begin."""
    node: int
    """Whose SuperNode, ClientApp or resident process."""


@dataclass(frozen=True)
class PlannedRun:
    """A run, and what is killed in it, in order."""

    strict: bool
    """Whether every client must take part in every round (``federation.min-reply-fraction=1``); of
    another run half of them are enough."""
    kills: tuple[Kill, ...]


@dataclass(frozen=True)
class Plan:
    """All runs."""

    processes: tuple[PlannedRun, ...]
    """On real SuperNodes."""
    actors: tuple[PlannedRun, ...]
    """In a simulation on Ray."""


def draw_plan(kills: int, seed: int) -> Plan:
    """Draw a plan: as many kills of every target as of the others, at most one in each stage of a
    run.
    """
    rng = random.Random(seed)  # noqa: S311
    targets = [TARGETS[number % len(TARGETS)] for number in range(kills)]
    rng.shuffle(targets)
    processes = [target for target in targets if target != ACTOR]
    actors = [target for target in targets if target == ACTOR]
    return Plan(tuple(_runs(processes, rng)), tuple(_runs(actors, rng)))


def _runs(targets: list[str], rng: random.Random) -> Iterator[PlannedRun]:
    for number, begin in enumerate(range(0, len(targets), STAGES)):
        these = targets[begin : begin + STAGES]
        stages = sorted(rng.sample(range(1, STAGES + 1), len(these)))
        kills = tuple(
            Kill(target, stage, round(rng.random(), 3), rng.randrange(len(NAMES)))
            for target, stage in zip(these, stages, strict=True)
        )
        yield PlannedRun(number % 2 == 0, kills)
