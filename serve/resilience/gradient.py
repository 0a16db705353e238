"""How many calls a target takes at once before they queue there, found from their times alone.

Netflix's Gradient2 (github.com/Netflix/concurrency-limits, `Gradient2Limit` in a `WindowedLimit`): the limit shrinks
by the ratio of the usual time to the present one, and grows by a small allowance for queueing. The present time is the
mean of a window of calls: answers differ in length, and a single long one shows no queue. Where calls always queue, the
usual time follows slowly and the limit creeps up; that is the algorithm's, and why there is a greatest limit. One
departure: a call that the target refused or let hang cuts the limit by a tenth, since calls that never end have no
times.
"""

from __future__ import annotations

# Windows over which the usual time is averaged, the first of them that count alike, and the fewest calls in one.
_WINDOWS = 600
_WARM_UP = 10
_CALLS = 10
_TOLERANCE = 1.5
_LEAST_GRADIENT = 0.5
_QUEUE = 4
_SMOOTHING = 0.2
_DRIFT = 0.95
_CUT = 0.9


class Gradient:
    """The limit of one target, which has no clock: it is told how long calls took."""

    def __init__(self, least: int, first: int, most: int) -> None:
        self._least, self._most = least, most
        self._limit = float(first)
        self._usual_s = 0.0
        self._windows = 0
        self._seconds, self._calls, self._busiest = 0.0, 0, 0

    @property
    def limit(self) -> int:
        """Calls that may be in progress at once."""
        return int(self._limit)

    def bound(self, least: int, most: int) -> None:
        """Other bounds; what has been learned is kept, as far as it lies within them."""
        self._least, self._most = least, most
        self._set(self._limit)

    @property
    def usual_s(self) -> float:
        """Seconds that a call usually takes; 0 before the first one."""
        return self._usual_s

    def succeeded(self, seconds: float, in_flight: int) -> None:
        """A call took so long while so many, itself included, were in progress."""
        self._seconds += seconds
        self._calls += 1
        self._busiest = max(self._busiest, in_flight)
        if self._calls < max(_CALLS, self._limit / 2):
            if not self._windows:  # a first guess, which the first window replaces
                self._usual_s = self._seconds / self._calls
            return
        self._adjust(self._seconds / self._calls, self._busiest)
        self._seconds, self._calls, self._busiest = 0.0, 0, 0

    def _adjust(self, seconds: float, in_flight: int) -> None:
        usual = self._learn(seconds)
        if in_flight < self._limit / 2:
            return  # so few show nothing about the limit
        gradient = max(_LEAST_GRADIENT, min(1.0, _TOLERANCE * usual / seconds)) if seconds > 0 else 1.0
        wanted = self._limit * gradient + _QUEUE
        self._set(self._limit * (1 - _SMOOTHING) + wanted * _SMOOTHING)

    def dropped(self) -> None:
        """A call was refused for want of room, or was not answered in time."""
        self._set(self._limit * _CUT)

    def _learn(self, seconds: float) -> float:
        """The usual time, this window's included: a mean at first, then an exponential one that sinks faster than it
        rises, so that it does not stay high after a slow time."""
        self._windows += 1
        part = 1 / self._windows if self._windows <= _WARM_UP else 2 / (_WINDOWS + 1)
        self._usual_s += (seconds - self._usual_s) * part
        if self._usual_s > 2 * seconds:
            self._usual_s *= _DRIFT
        return self._usual_s

    def _set(self, limit: float) -> None:
        self._limit = max(float(self._least), min(float(self._most), limit))
