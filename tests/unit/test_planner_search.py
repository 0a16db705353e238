"""Whole plans, simulated: the cheapest that holds, against exhaustive search, and why there is none."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks.capacity.outcome import Outcome
from benchmarks.capacity.planner.candidate import cluster_of, losses, scenario_of
from benchmarks.capacity.planner.catalogue import Catalogue
from benchmarks.capacity.planner.exhaustive import exhaustive
from benchmarks.capacity.planner.judge import Judge
from benchmarks.capacity.planner.plan import Plan
from benchmarks.capacity.planner.problem import Problem
from benchmarks.capacity.planner.search import search
from benchmarks.capacity.planner.solve import solve
from benchmarks.capacity.planner.what_if import break_even, load_held
from benchmarks.capacity.scenario import Scenario
from benchmarks.traffic.arrivals import Mmpp
from serve.config.budget import problems
from serve.config.cluster import ClusterFile
from serve.config.model_base import Placement
from serve.config.resilience import Resilience, Target
from serve.errors import ConfigError
from tests.unit.planner_cases import PROFILES, SCREENED, catalogue, cluster, problem
from tests.unit.planner_stub import Stub

BURSTY = Mmpp(low_per_s=20, high_per_s=170, low_s=16, high_s=4)


def cost(asked: Problem) -> float:
    found = search(asked, Judge(asked))
    assert found.verdict is not None, found.refusals
    return found.verdict.usd_per_hour


def test_the_cheapest_node_is_taken_and_whole() -> None:
    solution = solve(problem(50), what_ifs=False)
    plan = solution.plan
    assert plan.feasible
    assert [(one.name, one.working) for one in plan.nodes] == [("t4", 1)]
    assert plan.usd_per_hour == pytest.approx(0.75)
    (stage,) = plan.stages
    assert stage.gpu_fraction == 1
    assert stage.use < 0.85
    assert all(one.held for one in plan.findings)
    assert plan.left_out == ("llava", "spare")
    assert plan.usd_per_1000 == pytest.approx(1000 * 0.75 / (3600 * 50))


def test_more_load_never_costs_less() -> None:
    costs = [cost(problem(rate)) for rate in (50, 150, 400, 900)]
    assert costs == sorted(costs)
    assert costs[-1] > costs[0]


def test_a_stricter_bound_never_costs_less() -> None:
    costs = [cost(problem(300, f"p99={bound}ms")) for bound in (400, 150, 60, 40)]
    assert costs == sorted(costs)


def test_bursts_cost_more_than_poisson_at_the_same_rate() -> None:
    bursty = problem(arrivals=BURSTY, seconds=120.0)
    even = problem(bursty.rate_per_s)
    assert cost(bursty) >= cost(even)


def test_a_cascade_is_planned_onto_both_kinds_of_nodes_or_one() -> None:
    solution = solve(problem(60, "p99=3s", flows=SCREENED), what_ifs=False)
    plan = solution.plan
    assert plan.feasible
    assert {stage.name for stage in plan.stages} | {call.stands_in_for for call in plan.providers} == {"clip", "llava"}
    llava = [stage for stage in plan.stages if stage.name == "llava"]
    assert all(stage.use_per_point == pytest.approx(stage.use / 5, rel=0.01) for stage in llava)


def test_a_provider_stands_in_where_it_is_cheaper_and_only_if_allowed() -> None:
    dear = catalogue(t4_usd=5, a100_usd=50)
    asked = problem(20, "p99=3s", flows=SCREENED, nodes=dear)
    plan = solve(asked, what_ifs=False).plan
    assert [(call.provider, call.stands_in_for) for call in plan.providers] == [("mini", "llava")]
    assert plan.calls_usd_per_hour == pytest.approx(3600 * 20 * 0.05 * 0.001, rel=0.2)
    without = replace(asked, wishes=replace(asked.wishes, apis=False))
    hosted = solve(without, what_ifs=False).plan
    assert not hosted.providers
    assert "llava" in {stage.name for stage in hosted.stages}
    assert hosted.usd_per_hour > plan.usd_per_hour


def limited(base: ClusterFile | None = None, usd_per_day: float | None = None, **limits: Any) -> ClusterFile:
    """The base file with limits of its provider, or a bound on a day's money."""
    resilience = Resilience(usd_per_day=usd_per_day, targets={"mini": Target(**limits)})
    return (base or cluster()).model_copy(update={"resilience": resilience})


# One call a second of 1,000 tokens and 0.001 $: 60,000 tokens a minute, and 86.40 $ a day.
LIMITS = [
    ({"tokens_per_minute": 50_000}, "would make 60 calls a minute to mini, whose limits let 50 pass"),
    ({"requests_per_minute": 50}, "would make 60 calls a minute to mini, whose limits let 50 pass"),
    ({"usd_per_day": 80.0}, "a day of calls at this load costs 86.40 $; resilience.usd_per_day is 80"),
]


@pytest.mark.parametrize(("limits", "reason"), LIMITS, ids=lambda one: " ".join(one) if isinstance(one, dict) else "")
def test_a_plan_does_not_lean_on_a_provider_beyond_its_limits(limits: dict[str, Any], reason: str) -> None:
    dear = catalogue(t4_usd=5, a100_usd=50)
    asked = problem(20, "p99=3s", flows=SCREENED, nodes=dear, base=limited(**limits))
    found = search(asked, Judge(asked))
    assert reason in {refusal.why for refusal in found.refusals}
    assert found.candidate is not None and not found.candidate.called
    enough = {name: 2 * value for name, value in limits.items()}
    asked = replace(asked, cluster=limited(**enough))
    (call,) = solve(asked, what_ifs=False).plan.providers
    assert call.stands_in_for == "llava"


@pytest.mark.parametrize(("limits", "reason"), LIMITS, ids=lambda one: " ".join(one) if isinstance(one, dict) else "")
def test_a_file_whose_step_is_a_provider_beyond_its_limits_has_no_plan(limits: dict[str, Any], reason: str) -> None:
    asked = problem(20, "p99=3s", flows=SCREENED, base=limited(hosted_second(), **limits))
    plan = solve(asked, what_ifs=False).plan
    assert not plan.feasible
    assert any(reason in one for one in plan.reasons)


def test_what_the_calls_of_the_runs_cost_counts_against_the_days_money() -> None:
    """Of calls that overflow, nothing but the runs shows how many they are."""
    asked = problem(20, "p99=3s", flows=SCREENED, base=limited(hosted_second(), usd_per_day=1000.0))
    candidate = search(asked, Judge(asked)).candidate
    assert candidate is not None
    assert Judge(asked).judge(candidate).held
    poor = replace(asked, cluster=limited(hosted_second(), usd_per_day=80.0))
    verdict = Judge(poor).judge(candidate)
    assert all(one.held for one in verdict.findings) and not verdict.held
    assert verdict.over is not None and "resilience.usd_per_day is 80" in verdict.over


def test_a_run_that_lives_on_the_minute_that_a_limit_begins_with_does_not_hold() -> None:
    """A limit of half of what is asked lets nearly all of less than a minute pass."""
    asked = problem(20, "p99=3s", flows=SCREENED, base=limited(hosted_second()), seconds=50.0)
    candidate = search(asked, Judge(asked)).candidate
    assert candidate is not None
    verdict = Judge(replace(asked, cluster=limited(hosted_second(), tokens_per_minute=30_000))).judge(candidate)
    assert not verdict.held
    assert verdict.over is not None and "limits let pass" in verdict.over


def hosted_second() -> ClusterFile:
    """A cascade whose second step is the provider itself."""
    plain = cluster()
    first, second = plain.cascades["screen"].steps
    steps = (first, second.model_copy(update={"use": "mini", "fallback": ()}))
    return plain.model_copy(
        update={"cascades": {"screen": plain.cascades["screen"].model_copy(update={"steps": steps})}}
    )


def test_a_swapped_provider_is_in_the_cluster_file() -> None:
    nodes = catalogue(t4_usd=0.1, a100_usd=90)
    base = cluster(llava={"kind": "llava", "checkpoint": "writer", "dtype": "float16", "gpu_memory_gb": 40})
    solution = solve(problem(20, "p99=3s", flows=SCREENED, nodes=nodes, base=base), what_ifs=False)
    assert solution.cluster is not None and solution.candidate is not None
    (call,) = solution.plan.providers
    assert call.stands_in_for == "llava"
    step = solution.cluster.cascades["screen"].step("second")
    assert step.use == "mini"
    assert not step.fallback
    assert set(solution.cluster.models) == {"clip", "jobs"}
    assert not problems(solution.cluster)
    assert solution.plan.calls_usd_per_hour == pytest.approx(call.usd_per_hour, rel=0.2)


def test_one_node_may_be_lost() -> None:
    asked = problem(150, survive_node_loss=True)
    found = search(asked, judge := Judge(asked))
    assert found.candidate is not None
    assert sum(found.candidate.nodes.values()) >= 2
    for lost in losses(found.candidate):
        assert judge.judge(found.candidate, lost=lost).held
    assert cost(asked) >= cost(problem(150))


def test_a_lost_last_replica_is_no_scenario() -> None:
    asked = problem(50)
    found = search(asked, Judge(asked))
    assert found.candidate is not None
    (lost,) = losses(found.candidate)
    assert scenario_of(asked, found.candidate, lost=lost) is None


def test_availability_rents_spare_nodes() -> None:
    sure = problem(150, availability=0.9999)
    plan = solve(sure, what_ifs=False).plan
    (node, *_) = plan.nodes
    assert node.rented > node.working
    assert plan.nodes_usd_per_hour == pytest.approx(sum(one.rented * one.usd_per_hour for one in plan.nodes))


def test_spot_costs_what_spot_costs() -> None:
    assert cost(problem(50, price="spot")) == pytest.approx(0.25)
    with pytest.raises(ConfigError, match="no node has a price 'reserved'"):
        cost(problem(50, price="reserved"))


def test_what_cannot_be_is_explained_by_stage_and_bound() -> None:
    asked = problem(50, "p99=5ms")
    plan = solve(asked, what_ifs=True).plan
    assert not plan.feasible
    assert any("clip" in reason and "when idle" in reason for reason in plan.reasons)
    assert plan.nearest is not None and "p99 <=" in plan.nearest
    relaxed = float(plan.nearest.split("bounds x ")[1].rstrip(")"))
    assert solve(asked.relaxed(relaxed), what_ifs=False).plan.feasible


def test_a_mean_that_an_idle_cluster_misses_is_explained_as_a_sum() -> None:
    plan = solve(problem(50, "mean=10ms", flows=SCREENED), what_ifs=False).plan
    assert not plan.feasible
    assert any("idle, the mean is" in reason for reason in plan.reasons)


def test_a_catalogue_that_is_too_small_says_so() -> None:
    plan = solve(problem(3000, nodes=catalogue(max_nodes=2)), what_ifs=False).plan
    assert not plan.feasible
    assert any("the catalogue has 2" in reason for reason in plan.reasons)


def test_the_same_seeds_make_the_same_plan() -> None:
    def made() -> dict[str, Any]:
        plan = solve(problem(150, "p99=200ms"), what_ifs=False).plan
        return plan.model_dump(exclude={"search_seconds", "total_seconds"})

    assert made() == made()


def test_more_load_is_held_up_to_what_is_said() -> None:
    asked = problem(100, "p99=200ms")
    found = search(asked, Judge(asked))
    assert found.candidate is not None
    factor = load_held(asked, found.candidate, None)
    assert 1 <= factor <= 4
    beyond = asked.at_rate(min(4.0, factor * 1.2))
    assert factor > 3.9 or not Judge(beyond).judge(found.candidate).held


def test_break_even_is_arithmetic() -> None:
    asked = problem(60, "p99=3s", flows=SCREENED)
    found = search(asked, Judge(asked))
    assert found.candidate is not None
    (even,) = break_even(asked, found.candidate)
    assert even.calls_per_s == pytest.approx(even.node_usd_per_hour / (3600 * 0.001))
    assert (even.verdict == "call") == (even.calls_per_s > 3.0)


def test_many_nodes_are_found_by_large_steps_and_none_is_too_many() -> None:
    bursts = Mmpp(low_per_s=300, high_per_s=8000, low_s=18, high_s=2)
    asked = problem(arrivals=bursts, seconds=120.0, nodes=catalogue(a100_usd=100, max_nodes=64))
    judge = Judge(asked)
    found = search(asked, judge)
    assert found.candidate is not None and not found.proven
    (count,) = found.candidate.nodes.values()
    assert count >= 16 and found.tried < count / 2
    few = search(replace(asked, catalogue=catalogue(a100_usd=100, max_nodes=count - 1)), judge)
    assert few.candidate is None or few.candidate.nodes.keys() == {"a100"}, "one T4 less does not do"


def test_where_every_node_helps_a_little_the_nearest_miss_is_enlarged_until_it_holds() -> None:
    """Hundreds of cheaper sets of nodes miss by less than calls for large steps."""
    dear = catalogue(a100_usd=50, max_nodes=64)
    asked = problem(50, "failed=1%", flows=SCREENED, nodes=dear, apis=False)
    stub = Stub()

    def simulate(scenario: Scenario, arrivals: npt.NDArray[np.float64], **options: Any) -> Outcome:
        least = min(stage.replicas for stage in scenario.stages.values())
        refused = np.random.default_rng(options["seed"]).random(len(arrivals)) < 0.04 * 0.94**least
        return replace(stub(scenario, arrivals, **options), ok=~refused)

    judge = Judge(asked, simulate=simulate)
    found = search(asked, judge)
    assert found.candidate is not None and not found.proven
    (count,) = found.candidate.nodes.values()
    assert count > 30 and found.tried < 100
    few = replace(asked, catalogue=catalogue(a100_usd=50, max_nodes=count - 1))
    fewer = search(few, judge).candidate
    assert fewer is None or "a100" in fewer.nodes, "one T4 less does not do"


def test_of_what_is_enlarged_the_cheapest_is_taken_and_not_the_one_that_began_nearest() -> None:
    """The first A100 help a lot, and more of them hardly."""
    asked = problem(50, "failed=1%", flows=SCREENED, nodes=catalogue(max_nodes=64), apis=False)
    stub = Stub()

    def simulate(scenario: Scenario, arrivals: npt.NDArray[np.float64], **options: Any) -> Outcome:
        quick = any(stage.pool == "a100" for stage in scenario.stages.values())
        least = min(stage.replicas for stage in scenario.stages.values())
        worth = 14 + 0.6 * least if quick else least
        refused = np.random.default_rng(options["seed"]).random(len(arrivals)) < 0.04 * 0.94**worth
        return replace(stub(scenario, arrivals, **options), ok=~refused)

    told: list[str] = []
    found = search(asked, Judge(asked, simulate=simulate), told.append)
    held = [line for line in told if "missed" not in line]
    assert "a100" in held[0] and "a100" not in held[-1]
    assert found.candidate is not None and found.candidate.nodes.keys() == {"t4"}


@pytest.mark.parametrize(
    "asked",
    [
        problem(150, "p99=150ms", nodes=catalogue(max_nodes=3)),
        problem(40, "p99=2s", flows=SCREENED, nodes=catalogue(max_nodes=3)),
        problem(arrivals=BURSTY, seconds=120.0, nodes=catalogue(t4_usd=1.5, max_nodes=4)),
    ],
    ids=["encoder", "cascade", "bursts"],
)
def test_exhaustive_search_finds_nothing_cheaper(asked: Problem) -> None:
    best = exhaustive(asked, Judge(asked))
    found = search(asked, Judge(asked))
    assert best is not None and found.verdict is not None
    assert found.verdict.usd_per_hour <= best.verdict.usd_per_hour * 1.05


def test_the_planned_file_fits_its_nodes() -> None:
    asked = problem(400, "p99=2s", flows=SCREENED)
    found = search(asked, Judge(asked))
    assert found.candidate is not None
    planned = cluster_of(asked, found.candidate)
    assert not problems(planned)
    assert {pool: one.min_nodes for pool, one in planned.node_pools.items()} == found.candidate.nodes
    assert "spare" not in planned.models


def test_a_machine_without_a_gpu_is_planned_by_its_cores() -> None:
    """At most what its cores do: 20/s of 18 ms each are 0.36 cores, 400/s are more than there are."""
    node = {
        "hardware": "cpu-demo",
        "cpus": 2,
        "max_nodes": 1,
        "prices": {"on_demand": {"usd_per_hour": 0.1, "source": "a test", "date": date(2026, 11, 26)}},
    }
    base = cluster().model_copy(update={"router": cluster().router.model_copy(update={"num_cpus": 0.25})})
    placed = base.models["clip"].model_copy(update={"gpu_memory_gb": 0, "placement": Placement(num_cpus=0.5)})
    base = base.model_copy(update={"models": {"clip": placed}})
    profile = PROFILES["t4"]
    mine = profile.models["encoder"].model_copy(update={"cores": 1.0})
    here = profile.model_copy(update={"hardware": "cpu-demo", "models": {"encoder": mine}})

    def plan(rate: float, memory_gb: float = 8) -> Plan:
        nodes = {"demo": {**node, "memory_gb": memory_gb}}
        asked = problem(rate, "p99=500ms", base=base, nodes=Catalogue.model_validate({"nodes": nodes}))
        return solve(replace(asked, profiles={"cpu-demo": here}), what_ifs=False).plan

    assert plan(20).feasible
    (stage,) = plan(20).stages
    assert stage.gpu_fraction == 0 and stage.replicas == 1
    assert not plan(400).feasible
    small = plan(20, memory_gb=3.9)
    assert not small.feasible
    assert "clip: has no profile on demo, or needs more memory than it has" in small.reasons
