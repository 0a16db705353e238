"""A replica's service curve: how long a call takes with so many in progress, learnt while it serves.

R(n) = alone + each * n, in seconds, with n calls in progress at a replica on average. By Little's law a replica that
holds n calls answers n / R(n) a second, at most 1 / each; the two ends of this curve are the operational bounds of
Denning and Buzen 1978 ("The operational analysis of queueing network models"). It holds for a batcher (a pass of `n`
items, and the wait for the pass before it), for an engine that decodes `n` sequences at once, and for one server with a
queue, of which it is M/M/1's: to wait w at most, 1 / each may be used to the share w / (alone + w).

The fit is least squares with weights (calls answered) that fade, pulled towards what the cluster file says: at
`target_ongoing` calls in progress a call takes twice as long as alone. So a curve of which little has been seen is the
file's, and one that was seen at many loads is its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# Seconds of serving in which what has been seen fades to 1/e; a model that rests forgets nothing.
FADE_S = 600.0
# Less is no observation: seconds of all calls together, and calls.
_LEAST_S, _LEAST_CALLS = 1e-6, 1e-3
# The file's word weighs as much as so many calls, seen at loads of a spread of a quarter of `target_ongoing`.
_PRIOR_CALLS = 30.0
_PRIOR_SPREAD = 0.25
# Nothing counts on more calls in progress a replica than so many times `target_ongoing`.
MOST_ONGOING = 4.0
# Waits that are allowed where nobody says another: half of what a call takes alone, as long as a batcher's call waits
# on average for the pass that runs, and no less than 20 ms: beyond either a router sheds (serve.config.overload).
WAIT_SHARE, LEAST_WAIT_S = 0.5, 0.02


@dataclass(frozen=True, slots=True)
class Curve:
    """Weighted sums over what was seen: of 1, n, R, n * n and n * R."""

    weight: float = 0.0
    ongoing: float = 0.0
    seconds: float = 0.0
    squares: float = 0.0
    products: float = 0.0

    def faded(self, passed_s: float) -> Curve:
        """The same after some time of serving."""
        decay = math.exp(-max(0.0, passed_s) / FADE_S)
        return Curve(
            self.weight * decay,
            self.ongoing * decay,
            self.seconds * decay,
            self.squares * decay,
            self.products * decay,
        )

    def seen(self, calls: float, busy_s: float, ongoing: float) -> Curve:
        """With one more observation.

        Args:
            calls: that were answered.
            busy_s: that they took, in all.
            ongoing: in progress a replica, on average, while they were.
        """
        if calls < _LEAST_CALLS or busy_s < _LEAST_S:
            return self
        each = busy_s / calls
        return Curve(
            self.weight + calls,
            self.ongoing + calls * ongoing,
            self.seconds + calls * each,
            self.squares + calls * ongoing * ongoing,
            self.products + calls * ongoing * each,
        )

    def line(self, target_ongoing: float) -> Line | None:
        """The fit; None before anything was seen."""
        if self.weight < _LEAST_CALLS:
            return None
        ongoing, seconds = self.ongoing / self.weight, self.seconds / self.weight
        expected = seconds / (target_ongoing + ongoing)
        spread = max(0.0, self.squares - self.weight * ongoing * ongoing)
        together = self.products - self.weight * ongoing * seconds
        pull = _PRIOR_CALLS * (_PRIOR_SPREAD * target_ongoing) ** 2
        each = (together + pull * expected) / (spread + pull)
        # Alone a call takes some time, and more calls never make it shorter.
        each = min(max(each, 0.0), 0.9 * seconds / ongoing if ongoing > 0 else math.inf)
        return Line(seconds - each * ongoing, each)


@dataclass(frozen=True, slots=True)
class Line:
    """R(n) = alone + each * n, in seconds."""

    alone: float
    each: float

    def capacity(self, wait_s: float, target_ongoing: float) -> float:
        """Calls a second that one replica answers while they take `wait_s` longer than alone."""
        ongoing = MOST_ONGOING * target_ongoing
        if self.each > 0:
            ongoing = min(ongoing, wait_s / self.each)
        return ongoing / (self.alone + wait_s)


def allowed_wait_s(line: Line, wished_s: float | None) -> float:
    """How much longer than alone calls may take.

    Args:
        wished_s: what the file says; None for nothing.
    """
    return max(LEAST_WAIT_S, WAIT_SHARE * line.alone) if wished_s is None else wished_s
