"""How loaded the models are, from two facts: when requests arrive, and how long each call waited for its model.

Queue wait, not latency: latency also grows with the work in a request, so a long answer would look like an overload
(DAGOR: Zhou et al. 2018, "Overload Control for Scaling WeChat Microservices", section 4.1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
# Time constants of the arrival rate, in seconds: one follows a burst, the other remembers it.
SHORT_S, LONG_S = 1.0, 10.0
# The mean wait is over this many slots of so many seconds, the present one included.
_SLOTS, _SLOT_S = 5, 0.2
WINDOW_S = _SLOTS * _SLOT_S
# Of so many, one after the other is sooner told than all at once.
_FEW = 24


@dataclass(frozen=True, slots=True)
class Load:
    """The load at one moment.

    Attributes:
        queue_wait_s: mean wait of the calls of about the last second; 0 when there was none.
        arrivals_per_s: requests a second, over about the last second or the last ten, whichever is more: a burst counts
            at once, and a moment's pause does not hide it.
    """

    queue_wait_s: float
    arrivals_per_s: float


class LoadSignal:
    """Constant memory and time, however many requests come.

    Args:
        now: seconds on the clock that every other call uses; a time before an earlier one counts as that one.
    """

    __slots__ = ("_long", "_short", "_since", "_slot", "_sums", "_waits")

    def __init__(self, now: float) -> None:
        self._since = now
        self._short = self._long = 0.0
        # Waits of a window and not of fading memory: a second after a jam has cleared, nothing of it may be left.
        self._slot = int(now / _SLOT_S)
        self._sums = [0.0] * _SLOTS
        self._waits = [0] * _SLOTS

    def arrived(self, now: float) -> None:
        """A request came."""
        self._fade(now)
        self._short += 1 / SHORT_S
        self._long += 1 / LONG_S

    def waited(self, seconds: float, now: float) -> None:
        """A call began after having waited; 0 when it did not have to."""
        self._turn(now)
        self._sums[self._slot % _SLOTS] += seconds
        self._waits[self._slot % _SLOTS] += 1

    def arrived_at(self, times: Float64) -> None:
        """Requests came, in this order: `arrived` of one after the other. `times` is of shape (requests,), seconds."""
        if len(times) <= _FEW:
            for time in times.tolist():
                self.arrived(time)
            return
        times = np.maximum.accumulate(np.maximum(times, self._since))
        self._fade(float(times[-1]))
        ages = times[-1] - times
        self._short += float(np.exp(-ages / SHORT_S).sum()) / SHORT_S
        self._long += float(np.exp(-ages / LONG_S).sum()) / LONG_S

    def waited_at(self, seconds: Float64, times: Float64) -> None:
        """Calls began, in this order: `waited` of one after the other. Both are of shape (calls,), seconds."""
        if len(times) <= _FEW:
            for wait, time in zip(seconds.tolist(), times.tolist(), strict=True):
                self.waited(wait, time)
            return
        slots = np.maximum.accumulate(np.maximum((times / _SLOT_S).astype(np.int64), self._slot))
        starts = [0, *(np.flatnonzero(slots[1:] != slots[:-1]) + 1).tolist()]
        for first, end in zip(starts, [*starts[1:], len(slots)], strict=True):
            self._turn_to(int(slots[first]))
            self._sums[self._slot % _SLOTS] += float(seconds[first:end].sum())
            self._waits[self._slot % _SLOTS] += end - first

    def waits(self, now: float) -> tuple[float, int]:
        """Sum, in seconds, and number of the waits of about the last second."""
        self._turn(now)
        return sum(self._sums), sum(self._waits)

    def arrivals_per_s(self, now: float) -> float:
        """That part of `snapshot` alone."""
        self._fade(now)
        return max(self._short, self._long)

    def snapshot(self, now: float) -> Load:
        """The load at `now`."""
        seconds, count = self.waits(now)
        return Load(seconds / count if count else 0.0, self.arrivals_per_s(now))

    def _turn(self, now: float) -> None:
        self._turn_to(int(now / _SLOT_S))

    def _turn_to(self, slot: int) -> None:
        for skipped in range(min(_SLOTS, slot - self._slot)):
            place = (slot - skipped) % _SLOTS
            self._sums[place], self._waits[place] = 0.0, 0
        self._slot = max(slot, self._slot)

    def _fade(self, now: float) -> None:
        passed = now - self._since
        if passed <= 0:
            return
        self._since = now
        self._short *= math.exp(-passed / SHORT_S)
        self._long *= math.exp(-passed / LONG_S)
