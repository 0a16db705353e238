"""`argus bench scaling`: its plan, what it reads off a cluster over time, and its verdict."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.load import Run, Sample
from benchmarks.report import Report
from benchmarks.scaling import placement
from benchmarks.scaling.files import file, model
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


def placed(*places: tuple[str, int]) -> State:
    """Replicas of `assist` on nodes that are named after their pools."""
    nodes = (Node("a100", "a100"), Node("t4", "t4"))
    replicas = tuple(
        Replica(str(number), "RUNNING", pool, pool, (gpu,), number, 0.0) for number, (pool, gpu) in enumerate(places)
    )
    router = Deployment("router", "HEALTHY", "", 1, ())
    assist = Deployment("assist", "HEALTHY", "", len(places), replicas)
    return State(0.0, nodes, "RUNNING", "", {"router": router, "assist": assist})


@pytest.mark.parametrize(
    ("places", "misses"),
    [
        ([("a100", 0), ("a100", 1), ("t4", 0)], []),
        ([("a100", 0), ("a100", 0), ("t4", 0)], ["GPU 0 of a100-1 holds 1.5"]),
        ([("a100", 0), ("t4", 0), ("t4", 0)], ["assist is on", "GPU 0 of t4-1 holds 1.5"]),
    ],
)
def test_the_table_of_places_says_what_is_wrong(places: list[tuple[str, int]], misses: list[str]) -> None:
    cluster = parse(file({"assist": model(12, "a100", "t4", replicas=3)}))
    report = Report("", "", "", (), {})
    placement.add(report, "all", cluster, placed(*places), {"assist": ["a100", "a100", "t4"]})
    assert sum(row["replicas"] for row in report.rows) == 3
    assert {row["share"] for row in report.rows} == {0.75}
    assert len(report.misses) == len(misses)
    assert all(word in miss for word, miss in zip(misses, report.misses, strict=True)), report.misses
