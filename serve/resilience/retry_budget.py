"""How many retries the router may add to what clients asked for: a retry storm is an overload of one's own making.

Finagle's `RetryBudget` (twitter.github.io/finagle/guide/Clients.html#retries): every call deposits a share of a retry,
deposits expire, and a floor a second is always there, for targets with few calls.
"""

from __future__ import annotations

from collections import deque

_LIFE_S = 10.0
_SLICE_S = 1.0


class RetryBudget:
    """Of one target.

    Args:
        share: of a retry that each call deposits.
        floor_per_s: retries a second that need no deposit.
    """

    def __init__(self, share: float, floor_per_s: float) -> None:
        self._share = share
        self._floor = floor_per_s * _LIFE_S
        # Start of a slice of time, deposits less withdrawals in it.
        self._slices: deque[list[float]] = deque()

    def called(self, now: float) -> None:
        """A call began that is no retry."""
        self._slice(now)[1] += self._share

    def take(self, now: float) -> bool:
        """Withdraws one retry; False when there is none."""
        current = self._slice(now)
        if self._floor + sum(amount for _, amount in self._slices) < 1:
            return False
        current[1] -= 1
        return True

    def _slice(self, now: float) -> list[float]:
        while self._slices and self._slices[0][0] <= now - _LIFE_S:
            self._slices.popleft()
        if not self._slices or now - self._slices[-1][0] >= _SLICE_S:
            self._slices.append([now, 0.0])
        return self._slices[-1]
