"""A second call beside one that is late: Dean and Barroso, "The Tail at Scale" (CACM 56:2, 2013).

Sent when a call has lasted as long as all but a few do, it makes few calls more and takes the tail's place. It costs
money, so a token bucket bounds the share of calls that are hedged, whatever the times do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from ddsketch import DDSketch

T = TypeVar("T")

_ACCURACY = 0.02
# Times in one sketch; the one before it is kept beside it, so that old times are forgotten and there are always some.
_TIMES = 1_000
_BURST = 2.0


class Times:
    """A quantile of the last 1,000 to 2,000 times of calls, to 2 %, in constant memory (DDSketch, Masson et al. 2019).

    Args:
        share: the quantile, in (0, 1).
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._now, self._before = DDSketch(_ACCURACY), DDSketch(_ACCURACY)
        self._known_s, self._known_of = 0.0, 0

    @property
    def count(self) -> int:
        """Times that the quantiles are of."""
        return int(self._now.count + self._before.count)

    def add(self, seconds: float) -> None:
        """A call that succeeded took so long."""
        if self._now.count >= _TIMES:
            self._before, self._now = self._now, DDSketch(_ACCURACY)
            self._known_of = 0
        self._now.add(seconds)

    def late_s(self) -> float:
        """The quantile, in seconds, found anew whenever a twentieth of the times is; there must be times."""
        if self.count >= 1.05 * self._known_of:
            both = DDSketch(_ACCURACY)
            both.merge(self._now)
            both.merge(self._before)
            found = both.get_quantile_value(self._share)
            assert found is not None, "there is at least one time"
            self._known_s, self._known_of = float(found), self.count
        return self._known_s


class Allowance:
    """A token bucket that each call fills by a part of a hedge.

    Args:
        share: most hedges for each call.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._tokens = 0.0

    def called(self) -> None:
        """A call was sent."""
        self._tokens = min(_BURST, self._tokens + self._share)

    def take(self) -> bool:
        """Takes one hedge; False when there is none."""
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


async def race(
    first: Callable[[], Coroutine[Any, Any, T]],
    second: Callable[[], Coroutine[Any, Any, T]],
    after_s: float,
    may: Callable[[], bool],
) -> tuple[T, bool | None]:
    """The first success of two calls, the second of which begins when the first is late.

    The loser is cancelled and waited for, so that nothing runs on; so are both when the caller goes away.

    Args:
        after_s: seconds after which the first is late.
        may: asked then, once.

    Returns:
        The answer, and whether it is the second call's; None when there was none.

    Raises:
        Exception: the first call's, when neither succeeds.
    """
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(first())]
    try:
        await asyncio.wait(tasks, timeout=after_s)
        if tasks[0].done() or not may():
            return await tasks[0], None
        tasks.append(loop.create_task(second()))
        pending = set(tasks)
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if not task.cancelled() and task.exception() is None:
                    return task.result(), task is not tasks[0]
        return tasks[0].result(), False
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
