"""Ray Serve's own decision: as many replicas as keep the requests in progress at `target_ongoing` each.

That of `ray.serve.autoscaling_policy` (2.60: `replica_queue_length_autoscaling_policy` with `_apply_scaling_factors`
and `_apply_delay_logic`, whose clock cannot be given from outside); a test holds the two together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

# Of Ray's comparison of delays.
EPSILON_S = 1e-6


class Bounds(Protocol):
    """What the rule is given of a deployment."""

    @property
    def min_replicas(self) -> int: ...

    @property
    def max_replicas(self) -> int: ...

    @property
    def target_ongoing(self) -> float: ...

    @property
    def upscale_delay_s(self) -> float: ...

    @property
    def downscale_delay_s(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Waiting:
    """Since when the rule has wanted another number.

    Attributes:
        since: on the caller's clock; None while it does not.
        up: it wants more.
    """

    since: float | None = None
    up: bool = False


def bounded(rule: Bounds, wanted: int) -> int:
    """The nearest number within the bounds."""
    return min(rule.max_replicas, max(rule.min_replicas, wanted))


def wish(rule: Bounds, ongoing: float, running: int, target: int) -> int:
    """The number that suits the requests in progress now.

    Args:
        ongoing: requests in progress, over all replicas, those that wait for one included.
        running: replicas that answer.
        target: what was decided before.
    """
    if running == 0:
        return bounded(rule, max(1, target) if ongoing > 0 else target)
    return bounded(rule, math.ceil(ongoing / rule.target_ongoing))


def decide(
    rule: Bounds, waiting: Waiting, ongoing: float, running: int, target: int, now: float
) -> tuple[int, Waiting]:
    """The number that there is to be from `now` on; see `wish`."""
    if running == 0 and ongoing > 0:
        return wish(rule, ongoing, running, target), waiting
    wanted = wish(rule, ongoing, running, target)
    if wanted == target:
        return target, Waiting()
    up = wanted > target
    since = now if waiting.since is None or up != waiting.up else waiting.since
    delay = rule.upscale_delay_s if up else rule.downscale_delay_s
    if now - since + EPSILON_S < delay:
        return target, Waiting(since, up)
    # From more than one replica none is reached in one step.
    return (wanted if up or target == 1 else max(1, wanted)), Waiting()
