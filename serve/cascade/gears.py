"""Which gear a cascade is in, from the load alone, and what a gear costs.

A gear trades accuracy for capacity while the load is high (CascadeServe: Kossmann et al. 2024, "CascadeServe:
Unlocking Model Cascades for Inference Serving", which looks gears up by arrival rate; ours follow queue waits too).
Up at once; down one gear at a time, each after the load has stayed low for a while. A time in which nobody asked is
low if the request that ends it finds a low load: what was busy before it says nothing of now.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from serve.calibration.file import Calibration, CurvePoint, StepCalibration
from serve.config.cascades import Gear
from serve.resilience.load import Load

# A gear is kept while the wait is above this share of its bound: what it relieves must not undo it at once.
_KEPT_ABOVE = 0.5


class GearBox:
    """The gear of one cascade: 0 with no gear engaged, else 1 + its place in `gears`.

    Args:
        gears: by rising load.
        hold_s: seconds that the load must stay lower for each gear that is left; also the least time between two
            steps down.
    """

    def __init__(self, gears: Sequence[Gear], hold_s: float) -> None:
        self._gears = tuple(gears)
        self._hold_s = hold_s
        self._gear = 0
        self._low_since: float | None = None
        self._asked_at = -math.inf

    @property
    def gear(self) -> int:
        """The present one."""
        return self._gear

    def shift(self, load: Load, now: float) -> int:
        """The gear for a request at `now`, in seconds on any clock that does not go back."""
        before, self._asked_at = self._asked_at, now
        wanted = _wanted(self._gears, load)
        if wanted > self._gear:
            self._gear, self._low_since = wanted, None
        elif not self._gear or wanted == self._gear or not _relieved(self._gears[self._gear - 1], load):
            self._low_since = None
        else:
            self._sink(wanted, load, now, before)
        return self._gear

    def _sink(self, wanted: int, load: Load, now: float, before: float) -> None:
        """Leaves a gear for each `hold_s` of low load; nobody has asked since `before`."""
        if self._low_since is None:
            self._low_since = before if now - before >= self._hold_s else now
        holds = (now - self._low_since) // self._hold_s if self._hold_s else len(self._gears)
        if holds < 1:
            return
        self._low_since = now
        while holds >= 1 and self._gear > wanted and _relieved(self._gears[self._gear - 1], load):
            self._gear, holds = self._gear - 1, holds - 1


def _wanted(gears: Sequence[Gear], load: Load) -> int:
    """The highest gear of which the load is above a bound."""
    return max((place for place, gear in enumerate(gears, start=1) if _above(gear, load)), default=0)


def _above(gear: Gear, load: Load) -> bool:
    wait, rate = gear.above_queue_wait_ms, gear.above_requests_per_s
    return (wait is not None and 1e3 * load.queue_wait_s > wait) or (rate is not None and load.arrivals_per_s > rate)


def _relieved(gear: Gear, load: Load) -> bool:
    wait = gear.above_queue_wait_ms
    return wait is None or 1e3 * load.queue_wait_s < _KEPT_ABOVE * wait


@dataclass(frozen=True, slots=True)
class StepPrice:
    """What one step gives up in a gear, by the calibration's curve.

    Attributes:
        threshold: in the gear.
        accepted: share of requests that the step answers itself.
        usually_accepted: that share outside the gear.
        agreement: share of those answers that are right.
        agreement_lower: its lower confidence bound, for this threshold by itself; in a gear it is no longer certified.
        measured: the curve reaches this threshold; otherwise its lowest point stands in, and the truth may be worse.
    """

    step: str
    threshold: float
    accepted: float
    usually_accepted: float
    agreement: float
    agreement_lower: float
    target: float
    measured: bool


@dataclass(frozen=True, slots=True)
class GearPrice:
    """What a gear costs in accuracy.

    Attributes:
        steps: those whose threshold it changes.
        unknown: those of them that nobody has calibrated.
    """

    gear: str
    steps: tuple[StepPrice, ...]
    unknown: tuple[str, ...]

    @property
    def agreement_lower(self) -> float | None:
        """The least bound of its steps; None when it changes no calibrated one."""
        return min((step.agreement_lower for step in self.steps), default=None)

    @property
    def accepted(self) -> float | None:
        """Share of requests that its first changed step answers itself; None when there is none."""
        return self.steps[0].accepted if self.steps else None


def price(gear: Gear, calibration: Calibration | None) -> GearPrice:
    """What `gear` costs by the evidence of its cascade; see `GearPrice`."""
    known = {} if calibration is None else calibration.steps
    steps = tuple(
        _step_price(step, known[step], threshold)
        for step, threshold in gear.thresholds.items()
        if step in known and known[step].curve
    )
    priced = {step.step for step in steps}
    return GearPrice(gear.name, steps, tuple(step for step in gear.thresholds if step not in priced))


def _step_price(name: str, step: StepCalibration, threshold: float) -> StepPrice:
    point, measured = _point(step.curve, threshold)
    usual, _ = _point(step.curve, step.threshold)
    return StepPrice(
        name, threshold, point.accepted, usual.accepted, point.agreement, point.lower, step.target, measured
    )


def _point(curve: Sequence[CurvePoint], threshold: float) -> tuple[CurvePoint, bool]:
    """The measured point for a threshold, and whether there is one.

    Between two points it is the lower one, at which more is accepted than at `threshold`. A threshold above 1 accepts
    nothing.
    """
    if threshold > 1:
        return CurvePoint(threshold=threshold, accepted=0, agreement=1, lower=0), True
    for point in curve:  # by falling threshold
        if point.threshold <= threshold:
            return point, True
    return curve[-1], False
