"""A problem in, a plan out."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from benchmarks.capacity.outcome import Outcome
from benchmarks.capacity.planner import what_if
from benchmarks.capacity.planner.candidate import Candidate, cluster_of
from benchmarks.capacity.planner.demand import with_thresholds
from benchmarks.capacity.planner.describe import blank, described
from benchmarks.capacity.planner.judge import Judge, Simulate
from benchmarks.capacity.planner.plan import Plan
from benchmarks.capacity.planner.problem import Problem
from benchmarks.capacity.planner.proof import check_provable
from benchmarks.capacity.planner.search import Found, Refusal, search
from serve.config.cluster import ClusterFile

# Reasons why there is no plan that a person reads; the first of each stage come before the second of any.
_REASONS = 10


@dataclass(frozen=True, slots=True)
class Solution:
    """A plan, and what it was made from.

    Attributes:
        problem: with the thresholds that were chosen.
        candidate, cluster: None when there is no plan.
        runs: of the planned cluster, one a seed.
    """

    plan: Plan
    problem: Problem
    candidate: Candidate | None = None
    cluster: ClusterFile | None = None
    runs: tuple[Outcome, ...] = ()


def _silent(text: str) -> None: ...


def solve(
    problem: Problem,
    *,
    agreement: float | None = None,
    what_ifs: bool = True,
    growth: float = 1.0,
    simulate: Simulate | None = None,
    tell: Callable[[str], None] = _silent,
    clock: Callable[[], float] = time.perf_counter,
) -> Solution:
    """The cheapest cluster that holds the problem's objectives, or why there is none.

    Args:
        agreement: certified agreement that thresholds may be lowered to; by default what each was calibrated for.
        what_ifs: also sensitivity, room for load, break-even and cost against strictness; for an infeasible problem,
            what would be feasible instead.
        growth: how far replicas and nodes may grow beyond the plan, as a factor: the file's maxima.
        simulate: in place of `benchmarks.capacity.simulator.simulate`.
        tell: is told what is being done.

    Raises:
        ConfigError: a flow, a model or a provider has no profile, the file does not fit the flows, or the runs have too
            few requests to prove an objective.
    """
    began = clock()
    check_provable(problem)
    cluster, thresholds = with_thresholds(problem.cluster, problem.flows, agreement)
    problem = replace(problem, cluster=cluster)
    judge = Judge(problem, simulate=simulate)
    found = search(problem, judge, tell)
    plan = blank(problem, thresholds, ()).model_copy(
        update={"candidates_simulated": judge.simulated, "requests_simulated": judge.requests}
    )
    if found.candidate is None or found.verdict is None:
        plan = _infeasible(plan, problem, found, what_ifs, simulate, tell)
        return Solution(_timed(plan, clock() - began, clock() - began), problem)
    plan = described(plan, problem, judge, found, found.candidate, found.verdict)
    searched = clock() - began
    if what_ifs:
        plan = _with_what_ifs(plan, problem, found.candidate, simulate, tell)
    made = _grown(problem, found.candidate, growth)
    gone = sorted(problem.cluster.models.keys() - made.models.keys() - _stood_in(found.candidate))
    plan = _timed(plan.model_copy(update={"left_out": tuple(gone)}), searched, clock() - began)
    return Solution(plan, problem, found.candidate, made, found.verdict.runs)


def _stood_in(candidate: Candidate) -> set[str]:
    return {one.stage for one in candidate.called}


def _timed(plan: Plan, searched: float, total: float) -> Plan:
    return plan.model_copy(update={"search_seconds": searched, "total_seconds": total})


def _grown(problem: Problem, candidate: Candidate, growth: float) -> ClusterFile:
    """The cluster file, in which every stage may grow to `growth` times its replicas."""
    most = {stage: math.ceil(one.replicas * growth - 1e-9) for stage, (_, one) in candidate.placed.items()}
    return cluster_of(problem, candidate, most=most)


def _infeasible(
    plan: Plan, problem: Problem, found: Found, what_ifs: bool, simulate: Simulate | None, tell: Callable[[str], None]
) -> Plan:
    reasons = _most_telling([*found.refusals])
    if found.nearest is not None:
        candidate, verdict = found.nearest
        worst = verdict.worst()
        nodes = " + ".join(f"{count} {node}" for node, count in candidate.nodes.items())
        missed = f"misses {worst.objective}: the bound is {worst.bound:.4g}, {worst.allowed:.4g} is allowed"
        reasons.insert(0, f"the best that was simulated, {nodes}, {missed if verdict.over is None else verdict.over}")
    if not found.proven:
        reasons.append(f"the search ended after {found.tried} candidates and left others out")
    nearest = what_if.nearest_feasible(problem, simulate, tell) if what_ifs else None
    return plan.model_copy(update={"reasons": tuple(reasons), "nearest": nearest, "proven": found.proven})


def _most_telling(refusals: Sequence[Refusal]) -> list[str]:
    """A few of them, of as many stages as there are."""
    seen: Counter[str] = Counter()
    ranked = []
    for at, one in enumerate(refusals):
        ranked.append((seen[one.what], at, f"{one.what}: {one.why}"))
        seen[one.what] += 1
    told = [text for _, _, text in sorted(ranked)[:_REASONS]]
    left = len(refusals) - len(told)
    return [*told, f"and {left} more of the kind"] if left else told


def _with_what_ifs(
    plan: Plan, problem: Problem, candidate: Candidate, simulate: Simulate | None, tell: Callable[[str], None]
) -> Plan:
    cost = plan.usd_per_hour
    tell("how much more load holds")
    factor = what_if.load_held(problem, candidate, simulate)
    return plan.model_copy(
        update={
            "capacity_per_s": {flow.name: flow.share * problem.rate_per_s * factor for flow in problem.flows},
            "what_if": tuple(what_if.sensitivity(problem, candidate, simulate, tell)),
            "break_even": tuple(what_if.break_even(problem, candidate)),
            "cost_against_slo": tuple(what_if.cost_against_slo(problem, cost, simulate, tell)),
        }
    )
