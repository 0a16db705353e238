"""What an idle cluster takes: a lower bound of every latency, which no number of nodes can beat."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from benchmarks.capacity.planner.demand import visits
from benchmarks.capacity.planner.objectives import Objective
from benchmarks.capacity.planner.problem import Problem
from benchmarks.capacity.scenario import Flow

# A lone call's seconds vary: this share of their mean is taken for certain where a quantile is bounded.
_CERTAIN = 0.8


@dataclass(frozen=True, slots=True)
class Path:
    """One way through the cluster.

    Attributes:
        share: of all requests of the traffic.
        targets: models and providers, in order.
        seconds: mean, when nothing waits.
    """

    flow: Flow
    share: float
    targets: tuple[str, ...]
    seconds: float


def paths(problem: Problem, idle_s: Mapping[str, float]) -> list[Path]:
    """Every path that a request can take, when nothing fails.

    Args:
        idle_s: of a lone call, by model or provider, without the router.
    """
    router = min(profile.router.latency.mean for profile in problem.profiles.values())
    found: list[Path] = []
    for flow in problem.flows:
        steps = list(visits(problem.cluster, (flow,)))
        targets: tuple[str, ...] = ()
        seconds = router
        for at, visit in enumerate(steps):
            targets += (visit.target,)
            seconds += idle_s[visit.target]
            going_on = steps[at + 1].share if at + 1 < len(steps) else 0.0
            if visit.share - going_on > 0:
                found.append(Path(flow, flow.share * (visit.share - going_on), targets, seconds))
    return found


def impossible(problem: Problem, idle_s: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    """Objectives that even an idle cluster misses: the stages to blame, and why."""
    ways = paths(problem, idle_s)
    for objective in problem.objectives:
        mine = [path for path in ways if objective.flow in (None, path.flow.name)]
        if reason := _reason(objective, mine):
            yield reason


def _reason(objective: Objective, mine: list[Path]) -> tuple[str, str] | None:
    if objective.seconds is None:
        return None
    total = sum(path.share for path in mine)
    if objective.quantile is None:
        mean = sum(path.share * path.seconds for path in mine) / total
        if mean <= objective.seconds:
            return None
        slowest = max(mine, key=lambda path: path.share * path.seconds)
        terms = " + ".join(
            f"{path.share / total:.3g} x {1e3 * path.seconds:.3g} ms ({', '.join(path.targets)})" for path in mine
        )
        return ", ".join(slowest.targets), f"{objective.label}: idle, the mean is {1e3 * mean:.4g} ms = {terms}"
    late = [path for path in mine if _CERTAIN * path.seconds > objective.seconds]
    share = sum(path.share for path in late) / total
    if share <= 1.0 - objective.quantile:
        return None
    slowest = max(late, key=lambda path: path.seconds)
    return (
        ", ".join(slowest.targets),
        f"{objective.label}: {100 * share:.3g} % of the requests go through {', '.join(slowest.targets)}, which take "
        f"{1e3 * slowest.seconds:.4g} ms when idle",
    )
