"""Whom to turn away when models cannot keep up: pure decisions.

After DAGOR (Zhou et al. 2018, "Overload Control for Scaling WeChat Microservices", section 4): a cut runs through the
requests ordered by class, and within a class by a hash; what lies beyond the cut is shed. Long queue waits move the cut
up fast, short ones let it back slowly. DAGOR counts a histogram of priorities to move the cut by a share of the
requests; we move it in shares of a class, in proportion to how far the wait is from its target, which needs no counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from serve.config.overload import PRIORITIES, Overload, Priority
from serve.resilience.load import WINDOW_S

ShedReason = Literal["places", "queue_wait", "deadline"]

RANKS: Final = {priority: rank for rank, priority in enumerate(PRIORITIES)}
# The cut goes through this much of everything at most: without any calls nobody would learn that waits are short again.
_MOST: Final = len(PRIORITIES) - 0.05
# A queue is to be gone in about so many seconds, for which at least this share of what is being served is still let in.
_DRAINED_S, _LEAST_SHARE = 1.5, 0.5
# A signal that is older than this many seconds moves the cut up no further.
_FRESH_S: Final = 0.25
# Bounds of what a client is told, in seconds.
_SOONEST_S, _LATEST_S = 1.0, 60.0


@dataclass(frozen=True, slots=True)
class Rule:
    """What the cut follows.

    Attributes:
        target_s: queue wait that is still good, in seconds.
        rise_per_s: classes a second by which the cut moves up when the wait is twice the target, or longer.
        relax_per_s: classes a second by which it moves back at first when nothing waits; every further second without
            long waits adds as much, so that it feels its way while the load lasts and is soon gone afterwards.
        reserved: share of the places that each class leaves free for the next higher one.
    """

    target_s: float
    rise_per_s: float
    relax_per_s: float
    reserved: float

    @classmethod
    def of(cls, overload: Overload) -> Rule:
        """The rule of a cluster file."""
        return cls(
            overload.target_queue_wait_ms / 1e3, overload.rise_per_s, overload.relax_per_s, overload.reserved_share
        )

    def for_calls_of(self, usual_s: float) -> Rule:
        """The rule where calls usually take so long, in seconds: of passes that long a random burst alone makes calls
        wait, so half of that is still good."""
        return self if usual_s / 2 <= self.target_s else replace(self, target_s=usual_s / 2)


@dataclass(frozen=True, slots=True)
class Cut:
    """How much is shed, in classes from the lowest up: 0.5 is half of that, 1.25 all of it and a quarter of the next.

    Attributes:
        since: when it was moved last.
        calm_s: seconds for which the wait has been within its target.
    """

    level: float
    since: float
    calm_s: float = 0.0

    @property
    def marginal(self) -> int:
        """Rank of the class that the cut goes through."""
        return max(0, len(PRIORITIES) - 1 - int(self.level))


def enough(arrivals_per_s: Sequence[float], served_per_s: float, wait_s: float) -> float:
    """The level that lets in so much less than is being served that a queue drains.

    The wait says that too much is let in, not how much: what models get done at the same time does. So the cut can move
    fast and still not overshoot into a class that there is room for.

    Args:
        arrivals_per_s: of each class together with all higher ones, highest class first.
        wait_s: how long the queue is: mean wait over all classes.
    """
    room = max(_LEAST_SHARE, 1 - wait_s / _DRAINED_S) * served_per_s
    below = 0.0
    for rank, rate in enumerate(arrivals_per_s):
        if rate > room:
            return min(_MOST, len(PRIORITIES) - 1 - rank + (rate - room) / (rate - below))
        below = rate
    return 0.0


def moved(cut: Cut, waits_s: Sequence[float], rule: Rule, now: float, most: float = _MOST) -> Cut:
    """The cut at `now`.

    Args:
        most: what is enough; see there.
        waits_s: mean queue wait of each class together with all higher ones, highest class first. The cut follows that
            of the class that it goes through: lower ones, whose calls may still be in a queue, wait on nobody's
            account but their own, and must not cost a higher class its place.
    """
    passed = max(0.0, now - cut.since)
    excess = waits_s[cut.marginal] / rule.target_s - 1
    if excess > 0:
        # Within one call it does not enter the next class: that one has a wait of its own.
        ceiling = min(most, float(int(cut.level) + 1))
        level = min(ceiling, cut.level + min(passed, _FRESH_S) * rule.rise_per_s * min(1.0, excess))
        return Cut(level, max(cut.since, now))
    calm = cut.calm_s + passed
    back = passed + (calm**2 - cut.calm_s**2) / 2  # the integral of 1 + calm
    return Cut(max(0.0, cut.level + rule.relax_per_s * back * excess), max(cut.since, now), calm)


def position(priority: Priority, spot: float) -> float:
    """Where a request stands, on the cut's scale: it is shed when the level exceeds this.

    Args:
        spot: its place within its class, in [0, 1): a hash, so that the same request always stands at the same place.
    """
    return len(PRIORITIES) - 1 - RANKS[priority] + spot


def places(priority: Priority, limit: int, reserved: float, higher: int) -> int:
    """How many of `limit` places may be taken when a request of this class comes in; at least one.

    Args:
        higher: classes above this one that somebody uses: for others nothing is kept free.
    """
    return max(1, min(limit, round(limit * (1 - reserved * min(higher, RANKS[priority])))))


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request at the edge.

    Attributes:
        spot: see `position`.
        places: see `places`.
        left_s: seconds until its deadline.
    """

    priority: Priority
    spot: float
    places: int
    left_s: float


@dataclass(frozen=True, slots=True)
class Shed:
    """Why a request is turned away.

    Attributes:
        retry_after_s: when it would get in if no other request came.
    """

    reason: ShedReason
    retry_after_s: float


def decide(arrival: Arrival, cut: Cut, wait_s: float, in_flight: int, rule: Rule) -> Shed | None:
    """None when the request is let in.

    Args:
        wait_s: what a call of its class waits for its model at present.
        in_flight: requests in progress, over all classes.
    """
    if in_flight >= arrival.places:
        return Shed("places", _bearable(wait_s, arrival.spot))
    if not in_flight:
        return None  # then nothing waits, whatever was so a moment ago
    beyond = cut.level - position(arrival.priority, arrival.spot)
    if beyond > 0:
        return Shed("queue_wait", _bearable(WINDOW_S + _relaxed_after(beyond, rule), arrival.spot))
    if wait_s > max(0.0, arrival.left_s):
        return Shed("deadline", _bearable(wait_s, arrival.spot))
    return None


def _relaxed_after(levels: float, rule: Rule) -> float:
    """Seconds of calm in which the cut moves back so far."""
    return math.sqrt(1 + 2 * levels / rule.relax_per_s) - 1


def _bearable(seconds: float, spot: float) -> float:
    """Within bounds, and spread over half as much again: those turned away together must not return together."""
    return min(_LATEST_S, max(_SOONEST_S, seconds) * (1 + spot / 2))
