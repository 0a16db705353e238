"""How loaded the models are, from two facts: when requests arrive, and how long each call waited for its model.

Queue wait, not latency: latency also grows with the work in a request, so a long answer would look like an overload
(DAGOR: Zhou et al. 2018, "Overload Control for Scaling WeChat Microservices", section 4.1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# Time constants in seconds: one follows a burst, the other remembers it.
SHORT_S, LONG_S = 1.0, 10.0


@dataclass(frozen=True, slots=True)
class Load:
    """The load at one moment.

    Attributes:
        queue_wait_s: mean wait of the calls of about the last second; falls towards 0 when none is made.
        arrivals_per_s: requests a second, over about the last second or the last ten, whichever is more: a burst counts
            at once, and a moment's pause does not hide it.
    """

    queue_wait_s: float
    arrivals_per_s: float


class LoadSignal:
    """Exponentially weighted sums: constant memory and time, however many requests come.

    Args:
        now: seconds on the clock that every other call uses; a time before an earlier one counts as that one.
    """

    __slots__ = ("_long", "_short", "_since", "_wait_sum", "_waits")

    def __init__(self, now: float) -> None:
        self._since = now
        self._short = self._long = 0.0
        self._wait_sum = self._waits = 0.0

    def arrived(self, now: float) -> None:
        """A request came."""
        self._fade(now)
        self._short += 1 / SHORT_S
        self._long += 1 / LONG_S

    def waited(self, seconds: float, now: float) -> None:
        """A call began after having waited; 0 when it did not have to."""
        self._fade(now)
        self._wait_sum += seconds
        self._waits += 1

    def snapshot(self, now: float) -> Load:
        """The load at `now`."""
        self._fade(now)
        # What weighs less than one call of this moment is on its way to being forgotten.
        return Load(self._wait_sum / max(1.0, self._waits), max(self._short, self._long))

    def _fade(self, now: float) -> None:
        passed = now - self._since
        if passed <= 0:
            return
        self._since = now
        short = math.exp(-passed / SHORT_S)
        self._short *= short
        self._wait_sum *= short
        self._waits *= short
        self._long *= math.exp(-passed / LONG_S)
