"""What a batcher decides, as pure functions of numbers: `deployments.batching` serves by them, the simulator
(benchmarks/capacity/simulator) compiles the same functions and plans by them.

No clock, no queue and no event loop here: times are arguments, in seconds on any clock that does not go back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

# Longest wait for company, as a share of the forward pass that it delays.
_WAIT_SHARE: Final = 0.25
# Of the estimate: how much of what was known is kept with each pass, and how far a refusal on its word lowers it.
_FORGET: Final = 0.9
_RELAX: Final = 0.8
# A prediction this share of the fit counts as "cannot end in time": below 1, because the fit is a mean.
_OPTIMISM: Final = 0.8

# What becomes of the item at the head of a queue while a batch is put together.
TAKEN: Final = 0
LATE: Final = 1
FULL: Final = 2

Sums = tuple[float, float, float, float, float]
"""Of the passes seen, with fading weights: weight, cost, cost^2, seconds, cost * seconds."""

NO_PASSES: Final[Sums] = (0.0, 0.0, 0.0, 0.0, 0.0)

Line = tuple[float, float]
"""Predicted seconds of a pass: fixed, and for each unit of cost."""


def company(last_items: int, max_items: int) -> int:
    """Items for which an idle model waits: as many as the last batch held."""
    return min(last_items, max_items)


def linger_s(max_wait_s: float, last_pass_s: float) -> float:
    """Longest that it waits for them: at most a share of the pass, since waiting costs that of everyone.

    Args:
        last_pass_s: predicted seconds of a pass as costly as the last one.
    """
    return min(max_wait_s, _WAIT_SHARE * last_pass_s)


def oldest(heads: Sequence[float]) -> int:
    """Which lane goes next: the one whose head has waited longest, the first of equals.

    Args:
        heads: when the head of each lane was enqueued; at least one.
    """
    first = 0
    for lane in range(1, len(heads)):
        if heads[lane] < heads[first]:
            first = lane
    return first


def ruling(
    cost: float, max_cost: float, tightest: float, deadline: float, now: float, fixed_s: float, cost_s: float
) -> int:
    """What becomes of a living item at the head of the lane.

    Args:
        cost: of the batch with the item in it.
        tightest: earliest deadline in the batch so far; infinite when it is empty.
        deadline: of the item.
        fixed_s, cost_s: of the estimate (`line`), which says when the pass with the item in it would end.

    Returns:
        `TAKEN` into the batch, `FULL` when the batch ends here (growing further would cost too much, or make an item
        that is already in too late), or `LATE` when the item itself cannot end in time.
    """
    seconds = fixed_s + cost_s * cost
    ends = now + seconds if seconds > 0.0 else now
    if cost > max_cost or ends > tightest:
        return FULL
    return LATE if ends > deadline else TAKEN


def expected_wait_s(waiting: int, running: bool, max_items: int, pass_s: float) -> float:
    """Estimated seconds until an item that arrives now has been run.

    Args:
        pass_s: predicted seconds of a pass with `next_items` in it.
    """
    return (waiting // max_items + running + 1) * pass_s


def next_items(waiting: int, max_items: int) -> int:
    """Items in the next batch if one more arrives now."""
    return min(waiting + 1, max_items)


def usual_wait_s(last_pass_s: float, max_wait_s: float) -> float:
    """What an item may wait without there being more than the model can do: for the pass before its own, or for
    company; see `Batcher.standing_wait_s`."""
    return max(last_pass_s, max_wait_s)


def observed(sums: Sums, cost: float, seconds: float) -> Sums:
    """The sums with one finished pass more."""
    weight, costs, squares, total, products = sums
    return (
        _FORGET * weight + 1.0,
        _FORGET * costs + cost,
        _FORGET * squares + cost * cost,
        _FORGET * total + seconds,
        _FORGET * products + cost * seconds,
    )


def relaxed(sums: Sums) -> Sums:
    """The sums with every prediction lowered."""
    weight, costs, squares, total, products = sums
    return weight, costs, squares, _RELAX * total, _RELAX * products


def line(sums: Sums) -> Line:
    """The estimate, somewhat below the fit; 0 before the first observation.

    Weighted least squares of `seconds = fixed + slope * cost`; with no spread in cost, level at the mean.
    """
    weight, costs, squares, total, products = sums
    if weight == 0.0:
        return 0.0, 0.0
    mean_cost, mean_seconds = costs / weight, total / weight
    spread = squares / weight - mean_cost * mean_cost
    slope = 0.0
    if spread > 1e-9 * (mean_cost * mean_cost):
        slope = max(0.0, (products / weight - mean_cost * mean_seconds) / spread)
    return _OPTIMISM * (mean_seconds - slope * mean_cost), _OPTIMISM * slope


def predicted_s(estimate: Line, cost: float) -> float:
    """Seconds of a pass of `cost`."""
    fixed_s, cost_s = estimate
    return max(0.0, fixed_s + cost_s * cost)
