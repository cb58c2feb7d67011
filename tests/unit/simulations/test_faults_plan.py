"""What is killed, and when, is drawn from the seed; how it comes back."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from simulations.faults import worlds
from simulations.faults.disturbing import Struck
from simulations.faults.plan import ACTOR, PROCESSES, TARGETS, Kill, draw_plan
from simulations.faults.subject import STAGES


@pytest.mark.parametrize(("kills", "seed"), [(20, 0), (20, 7), (1, 0), (6, 3)])
def test_a_plan_kills_everything_about_as_often(kills, seed):
    plan = draw_plan(kills, seed)
    assert plan == draw_plan(kills, seed)
    real = [kill.target for run in plan.processes for kill in run.kills]
    on_ray = [kill.target for run in plan.actors for kill in run.kills]
    assert set(real) <= set(PROCESSES)
    assert set(on_ray) <= {ACTOR}
    counts = Counter(real + on_ray)
    assert sum(counts.values()) == kills
    each = kills // len(TARGETS)
    assert all(each <= counts[target] <= each + 1 for target in TARGETS)


def test_a_run_has_at_most_one_kill_in_each_stage():
    for seed in range(5):
        plan = draw_plan(20, seed)
        for run in (*plan.processes, *plan.actors):
            stages = [kill.stage for kill in run.kills]
            assert stages == sorted(set(stages))
            assert set(stages) <= set(range(1, STAGES + 1))
            assert all(0 <= kill.fraction <= 1 for kill in run.kills)
    assert draw_plan(20, 0) != draw_plan(20, 1)


@pytest.mark.parametrize(
    ("then", "equal", "left_out", "well"),
    [
        ("went on", True, [], True),
        ("went on", False, ["client 1, round 2: gone"], True),
        ("went on", False, [], False),
        ("lost", False, ["client 1, round 2: gone"], False),
    ],
)
def test_other_bits_are_well_only_where_a_client_was_left_out(then, equal, left_out, well):
    kill = Kill("SuperNode", 1, 0.5, 0)
    struck = Struck(kill, "run", False, 1, 0.0, 1.0, then, left_out, equal)
    assert struck.well is well
    assert struck.to_json()["well"] is well


class Refused:
    """A service that ends as often as it is started, as a node whose key is refused."""

    running = False

    def __init__(self):
        self.starts = []

    def start(self):
        self.starts.append(worlds.time.monotonic())

    def stop(self):
        pass


def test_a_service_comes_back_at_growing_intervals(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(worlds.time, "monotonic", lambda: now[0])
    service = Refused()
    supervised = worlds.Supervised(service)
    while now[0] < 65:
        supervised.mend()
        now[0] += 0.5
    begins = [0.0, *service.starts]
    pauses = [later - earlier for earlier, later in itertools.pairwise(begins)]
    assert pauses == pytest.approx([2, 4, 8, 16, 16, 16], abs=1)
    service.running = True
    now[0] += worlds.STEADY_SECONDS
    supervised.mend()
    assert supervised.delay == worlds.FIRST_DELAY
