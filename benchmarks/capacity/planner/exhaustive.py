"""Exhaustive search of small problems, by the same simulator and without bounds: what the planner is held against."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from benchmarks.capacity.planner.candidate import Candidate, assemble, node_usd_per_hour, rented
from benchmarks.capacity.planner.frontier import fixed_calls_usd, group
from benchmarks.capacity.planner.judge import Judge, Verdict
from benchmarks.capacity.planner.layout import every_layout
from benchmarks.capacity.planner.options import Called, Need, Option, called, hosted
from benchmarks.capacity.planner.problem import Problem


@dataclass(frozen=True, slots=True)
class Best:
    """The cheapest candidate that holds, and how many were simulated to know it."""

    candidate: Candidate
    verdict: Verdict
    tried: int


def exhaustive(problem: Problem, judge: Judge) -> Best | None:
    """Goes through every set of nodes, every place of every stage, every measured bound on batches and every number of
    replicas, in the order of their cost; None where none holds. Only what does not pack, or is asked more than it can
    do on average, is left out: neither can hold.
    """
    best: Best | None = None
    tried = 0
    for cost, candidate in _by_cost(problem):
        if best is not None and cost >= best.verdict.usd_per_hour:
            break
        tried += 1
        verdict = judge.holds(candidate)
        if verdict.held and (best is None or verdict.usd_per_hour < best.verdict.usd_per_hour):
            best = Best(candidate, verdict, tried)
    return None if best is None else replace(best, tried=tried)


def _by_cost(problem: Problem) -> list[tuple[float, Candidate]]:
    found = [
        (_least_cost(problem, candidate), candidate)
        for assignment in itertools.product(*_options(problem))
        for candidate in _candidates(problem, assignment)
    ]
    return sorted(found, key=lambda one: one[0])


def _least_cost(problem: Problem, candidate: Candidate) -> float:
    """Nodes and the calls that are made in any case; what overflows comes on top."""
    calls = sum(
        3600.0 * problem.rate_per_s * problem.works[one.stage].calls * one.usd_per_call for one in candidate.called
    )
    return node_usd_per_hour(problem, candidate.nodes) + 0.9 * (calls + fixed_calls_usd(problem))


def _options(problem: Problem) -> Iterator[list[Option]]:
    for stage, work in problem.works.items():
        if stage not in problem.cluster.models:
            continue
        apis = list(called(problem, work))
        options: list[Option] = list(apis)
        for name, node in problem.catalogue.nodes.items():
            here = hosted(problem, work, name, node, every=True)
            options += [*here, *(replace(one, overflow=api.provider) for one in here for api in apis[:1])]
        yield options


def _candidates(problem: Problem, assignment: tuple[Option, ...]) -> Iterator[Candidate]:
    works = problem.works
    # What is asked on average is all that is taken for known.
    needs = {stage: _average(problem, stage) for stage in works if stage in problem.cluster.models}
    grouped = group(assignment, needs)
    kinds = problem.catalogue.nodes
    names = list(grouped) or [min(kinds, key=lambda name: node_usd_per_hour(problem, {name: 1}))]
    apis = tuple(option for option in assignment if isinstance(option, Called))
    most = {name: kinds[name].max_nodes for name in names}
    for counts in itertools.product(*(range(1, most[name] + 1) for name in names)):
        if any(rented(problem, name, count) > most[name] for name, count in zip(names, counts, strict=True)):
            continue
        ways = [
            every_layout(problem.cluster, name, kinds[name], count, grouped.get(name, []))
            for name, count in zip(names, counts, strict=True)
        ]
        for pools in itertools.product(*ways):
            candidate = assemble(problem, pools, apis, _within(problem))
            if candidate is not None:
                yield candidate


def _average(problem: Problem, stage: str) -> Need:
    calls = problem.rate_per_s * problem.works[stage].calls
    return Need(calls, calls, 0.0, min(visit.flow.deadline_s for visit in problem.works[stage].visits))


def _within(problem: Problem) -> Mapping[str, float]:
    bounds = [one.seconds for one in problem.objectives if one.seconds is not None and one.quantile is not None]
    return {stage: min(bounds) for stage in problem.works} if bounds else {}
