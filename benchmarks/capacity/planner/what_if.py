"""What a plan is worth when things change: sensitivity, room for more load, break-even, and cost against strictness."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from benchmarks.capacity.planner.candidate import Candidate, Loss, losses
from benchmarks.capacity.planner.demand import with_escalation
from benchmarks.capacity.planner.judge import Judge, Simulate
from benchmarks.capacity.planner.options import Called, Hosted, called, hosted
from benchmarks.capacity.planner.plan import BreakEven, CostPoint, WhatIf
from benchmarks.capacity.planner.problem import Problem
from benchmarks.capacity.planner.proof import enough_seeds
from benchmarks.capacity.planner.search import Found, search
from benchmarks.capacity.profiles import HardwareProfile

# Candidates of a plan for changed conditions, and of the points of a curve.
_TRIES = 40
# Fewest runs of a load that may be held.
_SEEDS = 2
_MORE_LOAD = 1.5
_POINT = 0.01
_FACTORS = (0.5, 0.7, 0.85, 1.0, 1.25, 1.5, 2.0, 3.0)
_MOST_LOAD = 4.0
_LOAD_STEPS = 6


@dataclass(frozen=True, slots=True)
class Change:
    """Something that happens to a plan.

    Attributes:
        problem: as it is then; what the plan is judged by.
        lost: a node that is gone.
        again: the problem whose plan would hold then.
    """

    what: str
    problem: Problem
    lost: Loss | None
    again: Problem
    remark: str = ""


def changes(problem: Problem, candidate: Candidate) -> Iterator[Change]:
    """Escalation a point up and down, more load, each node lost, hosted APIs down."""
    cascades = [flow for flow in problem.flows if flow.entry in problem.cluster.cascades]
    if cascades:
        for points, sign in ((_POINT, "+"), (-_POINT, "-")):
            moved = replace(problem, flows=with_escalation(problem.flows, problem.cluster, points))
            yield Change(f"escalation {sign} 1 point", moved, None, moved)
    loaded = problem.at_rate(_MORE_LOAD)
    yield Change(f"load x {_MORE_LOAD:g}", loaded, None, loaded)
    sturdy = replace(problem, wishes=replace(problem.wishes, survive_node_loss=True))
    # Nodes that differ in their cores alone are told apart by nobody who reads it.
    for what, lost in {one.label: one for one in losses(candidate)}.items():
        yield Change(f"{what} lost", problem, lost, sturdy)
    if any(True for _ in _providers(problem, candidate)):
        down = replace(problem, profiles={name: _down(profile) for name, profile in problem.profiles.items()})
        without = replace(down, wishes=replace(problem.wishes, apis=False))
        yield Change("hosted APIs down", down, None, without, "failing at once; what the file's fallbacks say then")


def _providers(problem: Problem, candidate: Candidate) -> Iterator[str]:
    yield from (one.provider for one in candidate.called)
    yield from (one.option.overflow for _, one in candidate.placed.values() if one.option.overflow is not None)
    yield from (target for target in problem.works if target in problem.cluster.providers)


def _down(profile: HardwareProfile) -> HardwareProfile:
    providers = {name: one.model_copy(update={"failure_share": 1.0}) for name, one in profile.providers.items()}
    return profile.model_copy(update={"providers": providers})


def sensitivity(
    problem: Problem, candidate: Candidate, simulate: Simulate | None, tell: Callable[[str], None]
) -> Iterator[WhatIf]:
    """Each change: does the plan hold, and what would?"""
    for change in changes(problem, candidate):
        tell(change.what)
        verdict = Judge(change.problem, simulate=simulate).judge(candidate, lost=change.lost)
        # Held or not, calls cost what they do under the change.
        cost = verdict.usd_per_hour if verdict.held else cheapest(change.again, simulate)
        worst = verdict.worst() if verdict.findings else None
        yield WhatIf(
            change=change.what,
            held=verdict.held,
            worst="a stage has no replica left, or routers and stores no room" if worst is None else worst.objective,
            bound_over_allowed=1e9 if worst is None else min(1e9, worst.bound / worst.allowed),
            usd_per_hour_to_hold=cost,
            remark=change.remark,
        )


def cheapest(problem: Problem, simulate: Simulate | None) -> float | None:
    """Cost of the cheapest plan of a changed problem; None where the search finds none."""
    found = quick(problem, simulate)
    return None if found.verdict is None else found.verdict.usd_per_hour


def quick(problem: Problem, simulate: Simulate | None) -> Found:
    """A search with fewer tries."""
    problem = replace(problem, wishes=replace(problem.wishes, most_tries=_TRIES))
    return search(problem, Judge(problem, simulate=simulate))


def load_held(problem: Problem, candidate: Candidate, simulate: Simulate | None) -> float:
    """Greatest multiple of the planned load at which the candidate holds, by bisection; at least 1."""

    def holds(factor: float) -> bool:
        changed = problem.at_rate(factor)
        seeds = enough_seeds(changed, min(_SEEDS, changed.wishes.seeds), changed.wishes.seeds)
        changed = replace(changed, wishes=replace(changed.wishes, seeds=seeds))
        return Judge(changed, simulate=simulate).judge(candidate).held

    low, high = 1.0, _MOST_LOAD
    for _ in range(_LOAD_STEPS):
        middle = math.sqrt(low * high)
        if holds(middle):
            low = middle
        else:
            high = middle
    return low


def cost_against_slo(
    problem: Problem, usd_per_hour: float, simulate: Simulate | None, tell: Callable[[str], None]
) -> Iterator[CostPoint]:
    """Cheapest cluster with every latency bound multiplied by a factor; nothing where no objective bounds a latency."""
    if all(one.seconds is None for one in problem.objectives):
        return
    for factor in _FACTORS:
        tell(f"latency bounds x {factor:g}")
        cost = usd_per_hour if factor == 1.0 else cheapest(problem.relaxed(factor), simulate)
        yield CostPoint(factor=factor, usd_per_hour=cost)


def nearest_feasible(problem: Problem, simulate: Simulate | None, tell: Callable[[str], None]) -> str | None:
    """What of the same kind could be had: latency bounds a little looser, else less load; None for neither."""
    if any(one.seconds is not None for one in problem.objectives):
        tell("looser latency bounds")
        if (factor := _least(problem.relaxed, (1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0), simulate)) is not None:
            bounds = ", ".join(one.relaxed(factor).label for one in problem.objectives if one.seconds is not None)
            return f"{bounds} (latency bounds x {factor:g})"
    tell("less load")
    if (factor := _least(lambda factor: _lighter(problem, factor), (0.9, 0.75, 0.5, 0.25, 0.1), simulate)) is not None:
        return f"{problem.rate_per_s * factor:.4g} requests a second (load x {factor:g})"
    return None


def _lighter(problem: Problem, factor: float) -> Problem:
    """Less load, in runs of a stated length so much longer that they have as many requests: fewer prove less."""
    lighter, seconds = problem.at_rate(factor), problem.wishes.seconds
    if seconds is None:
        return lighter
    return replace(lighter, wishes=replace(lighter.wishes, seconds=seconds / factor))


def _least(changed: Callable[[float], Problem], factors: tuple[float, ...], simulate: Simulate | None) -> float | None:
    """The first factor at which there is a plan."""
    return next((factor for factor in factors if quick(changed(factor), simulate).candidate is not None), None)


def break_even(problem: Problem, candidate: Candidate) -> Iterator[BreakEven]:
    """For each stage that a provider may stand in for: from which rate a node of ours costs less than the calls."""
    prices = problem.catalogue.priced(problem.wishes.price)
    for stage, work in problem.works.items():
        if stage not in problem.cluster.models:
            continue
        options = [
            option for name, node in problem.catalogue.nodes.items() for option in hosted(problem, work, name, node)[:1]
        ]
        if not options:
            continue
        planned = candidate.placed.get(stage)
        best = min(options, key=lambda option: prices[option.node].usd_per_hour / option.capacity_per_s)
        option = next((one for one in options if planned and one.node == planned[0]), best)
        for api in called(replace(problem, wishes=replace(problem.wishes, apis=True)), work):
            yield _even(problem, option, api, prices[option.node].usd_per_hour, problem.rate_per_s * work.calls)


def _even(problem: Problem, option: Hosted, api: Called, usd_per_hour: float, calls_per_s: float) -> BreakEven:
    gpus = max(1, problem.catalogue.nodes[option.node].gpus)
    capacity = option.capacity_per_s * gpus * problem.wishes.most_use
    # Dollars an hour of one call a second.
    usd_of_one = api.usd_per_call * 3600.0
    full = math.floor(calls_per_s / capacity)
    ways: dict[Literal["host", "call", "host some"], float] = {
        "host": math.ceil(calls_per_s / capacity - 1e-9) * usd_per_hour,
        "call": calls_per_s * usd_of_one,
        "host some": full * usd_per_hour + (calls_per_s - full * capacity) * usd_of_one if full else math.inf,
    }
    return BreakEven(
        stage=option.stage,
        provider=api.provider,
        node=option.node,
        node_usd_per_hour=usd_per_hour,
        usd_per_call=api.usd_per_call,
        calls_per_s=usd_per_hour / usd_of_one if usd_of_one else 1e9,
        node_capacity_per_s=capacity,
        verdict=min(ways, key=lambda way: ways[way]),
    )
