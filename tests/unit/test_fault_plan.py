"""What is killed, and when, is drawn from the seed."""

from __future__ import annotations

from collections import Counter

import pytest

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
    assert all(kills // 6 <= counts[target] <= kills // 6 + 1 for target in TARGETS)


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
