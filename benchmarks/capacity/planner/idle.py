"""What an idle cluster takes: a lower bound of every latency, which no number of nodes can beat."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from benchmarks.capacity.planner.demand import visits
from benchmarks.capacity.planner.objectives import Objective
from benchmarks.capacity.planner.problem import Problem
from benchmarks.capacity.scenario import Flow


@dataclass(frozen=True, slots=True)
class Path:
    """One way through the cluster.

    Attributes:
        share: of all requests of the traffic.
        targets: models and providers, in order.
    """

    flow: Flow
    share: float
    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Lone:
    """Seconds of calls that meet nobody.

    Attributes:
        floor_s: below which none ends.
    """

    mean_s: float
    floor_s: float


class Idle:
    """An idle cluster of one problem, whatever its models run on."""

    def __init__(self, problem: Problem) -> None:
        routers = [profile.router.latency for profile in problem.profiles.values()]
        self._router = Lone(min(one.mean for one in routers), min(one.seconds[0] for one in routers))
        self._providers: dict[str, Lone] = {}
        for target in problem.works:
            if target in problem.cluster.providers:
                known = problem.provider(target)
                self._providers[target] = Lone(known.latency.mean, known.latency.seconds[0]) if known else Lone(0, 0)
        ways = paths(problem)
        self._asked = [
            (one, [way for way in ways if one.flow in (None, way.flow.name)])
            for one in problem.objectives
            if one.seconds is not None
        ]

    def impossible(self, models: Mapping[str, Lone]) -> Iterator[tuple[str, str]]:
        """Objectives that are missed all the same: the stages to blame, and why.

        Args:
            models: by stage, without the router; of a provider where one stands in.
        """
        lone = {**self._providers, **models}
        for objective, mine in self._asked:
            judged = self._mean if objective.quantile is None else self._late
            reason = judged(objective, mine, lone)
            if reason is not None:
                yield reason

    def _mean(self, objective: Objective, mine: list[Path], lone: Mapping[str, Lone]) -> tuple[str, str] | None:
        total = sum(path.share for path in mine)
        seconds = [self._router.mean_s + sum(lone[target].mean_s for target in path.targets) for path in mine]
        mean = sum(path.share * one for path, one in zip(mine, seconds, strict=True)) / total
        if mean <= (objective.seconds or 0.0):
            return None
        at = max(range(len(mine)), key=lambda at: mine[at].share * seconds[at])
        terms = " + ".join(
            f"{path.share / total:.3g} x {1e3 * one:.3g} ms ({', '.join(path.targets)})"
            for path, one in zip(mine, seconds, strict=True)
        )
        return ", ".join(mine[at].targets), f"{objective.label}: idle, the mean is {1e3 * mean:.4g} ms = {terms}"

    def _late(self, objective: Objective, mine: list[Path], lone: Mapping[str, Lone]) -> tuple[str, str] | None:
        """Only requests that would be late at the fastest ever seen count: those of heavy tails may be in time."""
        least = [self._router.floor_s + sum(lone[target].floor_s for target in path.targets) for path in mine]
        late = [at for at, floor in enumerate(least) if floor > (objective.seconds or 0.0)]
        share = sum(mine[at].share for at in late) / sum(path.share for path in mine)
        if share <= 1.0 - (objective.quantile or 0.0):
            return None
        at = max(late, key=lambda at: least[at])
        targets = ", ".join(mine[at].targets)
        return (
            targets,
            f"{objective.label}: {100 * share:.3g} % of the requests go through {targets}, which take at least "
            f"{1e3 * least[at]:.4g} ms when idle",
        )


def paths(problem: Problem) -> list[Path]:
    """Every path that a request can take, when nothing fails."""
    found: list[Path] = []
    for flow in problem.flows:
        steps = list(visits(problem.cluster, (flow,)))
        targets: tuple[str, ...] = ()
        for at, visit in enumerate(steps):
            targets += (visit.target,)
            going_on = steps[at + 1].share if at + 1 < len(steps) else 0.0
            if visit.share - going_on > 0:
                found.append(Path(flow, flow.share * (visit.share - going_on), targets))
    return found
