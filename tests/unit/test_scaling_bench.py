"""`argus bench scaling`: its plan, what it reads off a cluster over time, and its verdict."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.load import Run, Sample
from benchmarks.scaling.ramp import POLICIES, SLO_S, Plan, Watch, area, cluster, first, over_by
from benchmarks.scaling.state import Deployment, Node, Replica, State
from serve.config.budget import packing_notes, problems
from serve.config.load import parse


def replica(number: int, state: str = "RUNNING", node: str = "n") -> Replica:
    return Replica(str(number), state, node, "a100", (0,), number, 0.0)


def state(at: float, wanted: int, *replicas: Replica, nodes: int = 1) -> State:
    llava = Deployment("llava", "HEALTHY", "", wanted, replicas)
    found = tuple(Node("n" if number == 0 else f"n{number}", "a100") for number in range(nodes))
    return State(at, found, "RUNNING", "", {"llava": llava})


def test_the_plan_is_calm_then_a_ramp_then_a_hold() -> None:
    plan = Plan(from_per_s=50, to_per_s=200, calm_s=20, ramp_s=40, hold_s=40)
    times = np.array(plan.times())
    assert (np.diff(times) >= 0).all() and times[0] >= 0 and times[-1] < plan.seconds == 100
    counts, _ = np.histogram(times, [0, 20, 60, 100])
    for found, expected in zip(counts, (1000, 5000, 8000), strict=True):
        assert abs(found - expected) < 5 * expected**0.5
    assert plan.times() == plan.times()


def test_changes_are_noted_once() -> None:
    watch = Watch()
    watch.note(-1.0, state(0, 1, replica(1)))
    watch.note(0.0, state(0, 1, replica(1)))
    watch.note(4.0, state(0, 2, replica(1), replica(2, "STARTING"), nodes=2))
    watch.note(9.0, state(0, 2, replica(1), replica(2)))
    assert watch.wanted == [(-1.0, 1), (4.0, 2)]
    assert watch.running == [(-1.0, 1), (9.0, 2)]
    assert first(watch.running, 2) == 9.0 and first(watch.running, 3) is None
    assert watch.nodes == [(-1.0, 1), (4.0, 2), (9.0, 1)]
    assert area(watch.nodes, 10.0) == 1 * 5 + 2 * 5 + 1 * 1


def test_requests_over_the_objective_are_counted_when_they_were_due() -> None:
    late = SLO_S + 0.1
    samples = [Sample(1, 2), Sample(9.9, 9.9 + late), Sample(12, 12.1, "Http429"), Sample(24, None)]
    assert over_by(Run(0, 25, closed=40, samples=samples), 10) == [1, 1, 1]


def test_a_replica_on_a_node_that_is_gone_does_not_run() -> None:
    assert state(0, 1, replica(1)).all_run()
    assert not state(0, 1, replica(1, node="gone")).all_run()
    assert not state(0, 2, replica(1), replica(2, "STARTING")).all_run()


@pytest.mark.parametrize("policy", POLICIES)
def test_the_cluster_file_fits(policy: str) -> None:
    found = parse(cluster(policy))
    assert problems(found) == [] and list(packing_notes(found)) == []
    assert found.autoscaling.policy == policy
