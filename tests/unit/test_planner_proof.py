"""Too few requests prove nothing, and that is no fault of any cluster."""

from __future__ import annotations

import re

import pytest

from benchmarks.capacity.planner.judge import Judge
from benchmarks.capacity.planner.problem import Problem
from benchmarks.capacity.planner.search import search
from benchmarks.capacity.planner.solve import solve
from benchmarks.capacity.planner.what_if import load_held, nearest_feasible
from serve.errors import ConfigError
from tests.unit.planner_cases import catalogue, problem
from tests.unit.planner_stub import Stub


def few(seconds: float = 60.0, seeds: int = 5) -> Problem:
    """Five requests a second of which one in a thousand may fail."""
    return problem(5.0, "failed=0.1%", "mean=1s", seconds=seconds, seeds=seeds)


def test_runs_too_short_to_prove_an_objective_are_refused_before_any_is_simulated() -> None:
    stub = Stub()
    with pytest.raises(ConfigError, match=r"failed <= 0.1 % cannot be proven: .* about 1,350 requests") as refused:
        solve(few(), simulate=stub)
    assert not stub.seen
    assert refused.value.param == "duration"
    found = re.search(r"--duration (\d+) or --seeds (\d+)$", refused.value.message)
    assert found is not None
    for enough in (few(seconds=float(found[1])), few(seeds=int(found[2]))):
        assert solve(enough, what_ifs=False, simulate=stub).plan.feasible


def test_what_no_number_of_seeds_would_prove_names_a_duration_alone() -> None:
    with pytest.raises(ConfigError, match=r"--duration \d+$"):
        solve(problem(0.1, "failed=0.1%", seconds=60.0), simulate=Stub())


def test_as_many_requests_as_one_flow_has_must_prove_what_is_asked_of_it() -> None:
    asked = problem(100.0, "classified.p99.9=1s", seconds=60.0)
    solve(asked, what_ifs=False, simulate=Stub())
    rare = (
        asked.flows[0].model_copy(update={"share": 0.01}),
        asked.flows[0].model_copy(update={"name": "others", "share": 0.99}),
    )
    with pytest.raises(ConfigError, match="about 162 requests"):
        solve(problem(100.0, "classified.p99.9=1s", flows=rare, seconds=60.0), simulate=Stub())


def test_the_load_that_is_held_is_judged_with_seeds_enough_to_prove_it() -> None:
    """Two seeds would prove it of no load below 2.5 times the planned one."""
    asked = problem(12.0, "failed=0.1%", seconds=60.0, seeds=10)
    candidate = search(asked, Judge(asked, simulate=Stub())).candidate
    assert candidate is not None
    replicas = candidate.placed["clip"][1].replicas
    stub = Stub(calls_per_s={"clip": 12.0 * 1.6 / replicas})
    assert load_held(asked, candidate, stub) == pytest.approx(1.6, rel=0.1)


def test_less_load_is_simulated_for_longer() -> None:
    """A tenth of the load in runs of the same length would prove nothing, and no load at all would be found."""
    asked = problem(100.0, "failed=0.1%", seconds=60.0, nodes=catalogue(max_nodes=1))
    assert nearest_feasible(asked, Stub(calls_per_s={"clip": 11}), lambda text: None) == (
        "10 requests a second (load x 0.1)"
    )
