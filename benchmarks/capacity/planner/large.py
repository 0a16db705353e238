"""Where one node after the other would take too long: up until it holds, then down for as long as it does.

What comes of it is a plan, and not certainly the cheapest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass

from benchmarks.capacity.planner.candidate import Candidate
from benchmarks.capacity.planner.frontier import STRIDE, Assignment, Frontier
from benchmarks.capacity.planner.judge import Verdict
from benchmarks.capacity.planner.options import Hosted, Option
from benchmarks.capacity.planner.problem import Problem

# What a candidate misses by this multiple of what is allowed, it misses by far.
_FAR = 5.0
# What runs where, of an assignment: its bounds on batches left out.
Place = tuple[tuple[str, str, str | None], ...]


@dataclass(frozen=True, slots=True)
class Held:
    """A candidate that holds, and what it was made of."""

    assignment: Assignment
    candidate: Candidate
    verdict: Verdict

    @property
    def usd_per_hour(self) -> float:
        return self.verdict.usd_per_hour


@dataclass(frozen=True, slots=True)
class Tried:
    """An assignment on some nodes.

    Attributes:
        held: what holds of it.
        short: kinds of nodes of which more are worth a try.
        miss: the worst objective's bound over what is allowed, of the layout that came nearest; infinite when none was
            simulated.
    """

    assignment: Assignment
    nodes: Mapping[str, int]
    held: Held | None
    short: Set[str]
    miss: float = math.inf

    @property
    def far(self) -> bool:
        """Whether much was missing in each simulation."""
        return _FAR < self.miss < math.inf


Attempt = Callable[[Assignment, Mapping[str, int]], Tried]


def miss_of(verdict: Verdict) -> float:
    """The worst objective's bound over what is allowed; infinite when nothing was simulated."""
    return max((one.bound / one.allowed for one in verdict.findings), default=math.inf)


def keep_nearest(nearest: dict[Place, Tried], tried: Tried) -> None:
    """Keeps of each place what missed least."""
    place = _place(tried.assignment)
    if place not in nearest or tried.miss < nearest[place].miss:
        nearest[place] = tried


def enlarged(
    problem: Problem,
    frontier: Frontier,
    assignments: Sequence[Assignment],
    nearest: Mapping[Place, Tried],
    attempt: Attempt,
) -> Held | None:
    """The cheapest of what comes of each place: the nearest with more nodes of the kinds that are short until it holds,
    or costs more than another, then with fewer; None when none of them holds on all that the catalogue has."""
    most: dict[Place, Assignment] = {}
    for one in sorted(assignments, key=_capacity):
        most[_place(one)] = one
    best: Held | None = None
    for place in sorted(most, key=lambda place: nearest[place].miss if place in nearest else math.inf):
        tried = nearest.get(place) or attempt(most[place], frontier.least(most[place]))
        while tried.held is None and (nodes := frontier.more(tried.nodes, tried.short)) is not None:
            if best is not None and frontier.least_usd(tried.assignment, nodes) >= best.usd_per_hour:
                break
            tried = attempt(tried.assignment, nodes)
        if tried.held is not None:
            made = leaner(problem, tried.held, attempt)
            best = made if best is None or made.usd_per_hour < best.usd_per_hour else best
    return best


def leaner(problem: Problem, best: Held, attempt: Attempt) -> Held:
    """With fewer nodes, as long as it holds: of each kind, the dearest first, by ever smaller steps."""
    nodes, prices = dict(best.candidate.nodes), problem.catalogue.priced(problem.wishes.price)
    for node in sorted(nodes, key=lambda name: -prices[name].usd_per_hour):
        step = max(1, nodes[node] // STRIDE)
        while step:
            less = attempt(best.assignment, {**nodes, node: nodes[node] - step}).held if nodes[node] > step else None
            if less is None or less.usd_per_hour >= best.usd_per_hour:
                step //= 2
                continue
            best, nodes[node] = less, nodes[node] - step
    return best


def _place(assignment: Assignment) -> Place:
    return tuple(_where(option) for option in assignment)


def _where(option: Option) -> tuple[str, str, str | None]:
    if isinstance(option, Hosted):
        return option.stage, option.node, option.overflow
    return option.stage, option.provider, None


def _capacity(assignment: Assignment) -> float:
    return sum(option.capacity_per_s for option in assignment if isinstance(option, Hosted))
