"""Calls of a model that may have no replica (`min_replicas: 0`): the first ones wait for one to start, within bounds.

Nobody tells a router how many replicas a model has. But one that has answered lately has one still: both policies keep
it for `downscale_delay_s` after the last call. Otherwise the router asks with one small call of its own, which wakes
the model if it sleeps: Ray Serve starts a replica for a call that waits. Everyone else waits for that call's answer and
not in Ray's queue, which knows neither deadlines nor when the replica will be there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from serve.context import RequestContext
from serve.errors import Unavailable
from serve.handles import ModelHandle

STARTING = "model_starting"
"""The code of errors that mean: it is being started, come again."""
# A model that is awake answers the call within this time, in seconds.
_GRACE_S = 0.5
# Of `downscale_delay_s`: the controller's clock and reports are a little behind.
_SURE = 0.8
# The waking call is given up after so many start-up times, and no less than so many seconds.
_PATIENCE, _LEAST_S = 5.0, 300.0
# Of a start-up time that was measured, how much it counts against what was thought before.
_WEIGHT = 0.5


class WakingHandle:
    """See the module's text. A `ModelHandle`.

    Args:
        name: of the model.
        handle: its handle.
        probe: a cheap method of its replicas without arguments.
        start_s: how long a replica takes to start, until that has been seen.
        keep_s: how long a replica stays without calls.
        most_waiting: calls that may wait.
        clock: like `time.monotonic`, on which deadlines are.
    """

    def __init__(
        self,
        name: str,
        handle: ModelHandle,
        *,
        start_s: float,
        keep_s: float,
        most_waiting: int,
        probe: str = "info",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._handle = handle
        self._probe = probe
        self._start_s = start_s
        self._keep_s = _SURE * keep_s
        self._most = most_waiting
        self._clock = clock
        self._answered: float | None = None
        self._waking: asyncio.Task[None] | None = None
        self._waking_since = 0.0
        self._waiting = 0

    async def call(
        self, method: str, context: RequestContext, *args: Any, affinity: str | None = None, **kwargs: Any
    ) -> Any:
        """See `ModelHandle.call`.

        Raises:
            Unavailable: with the code `model_starting`: the replica will not be there before the deadline, or too many
                wait for it already.
        """
        await self._awake(context)
        result = await self._handle.call(method, context, *args, affinity=affinity, **kwargs)
        self._answered = self._clock()
        return result

    async def stream(
        self, method: str, context: RequestContext, *args: Any, affinity: str | None = None
    ) -> AsyncGenerator[Any, None]:
        """See `ModelHandle.stream` and `call`."""
        await self._awake(context)
        items = self._handle.stream(method, context, *args, affinity=affinity)
        async with aclosing(items):
            async for item in items:
                self._answered = self._clock()
                yield item

    async def _awake(self, context: RequestContext) -> None:
        """Returns when a replica answers."""
        if self._answered is not None and self._clock() - self._answered < self._keep_s:
            return
        waking = self._wake()
        if self._waiting >= self._most:
            raise self._starting(f"{self._most} calls wait for it already")
        self._waiting += 1
        try:
            await self._wait(waking, min(_GRACE_S, context.remaining_s()))
            if not waking.done():
                # Whoever cannot wait so long is told at once: it may ask another, or come again.
                if self._left_s() > context.remaining_s():
                    raise self._starting("it will not be there before the deadline")
                await self._wait(waking, context.remaining_s())
        finally:
            self._waiting -= 1
        if not waking.done():
            raise self._starting("it was not there before the deadline")
        if waking.cancelled():
            raise self._starting("the router stops")
        if (error := waking.exception()) is not None:
            raise self._starting("it could not be started") from error

    def _wake(self) -> asyncio.Task[None]:
        """The call that wakes the model, which goes on when whoever began it has left."""
        if self._waking is None or self._waking.done():
            self._waking_since = self._clock()
            self._waking = asyncio.create_task(self._ask(), name=f"wake {self._name}")
        return self._waking

    async def _ask(self) -> None:
        patience_s = max(_LEAST_S, _PATIENCE * self._start_s)
        context = RequestContext(f"wake-{self._name}", "argus", self._clock() + patience_s)
        await self._handle.call(self._probe, context)
        took_s = self._clock() - self._waking_since
        if took_s > _GRACE_S:
            self._start_s += _WEIGHT * (took_s - self._start_s)
        self._answered = self._clock()

    @staticmethod
    async def _wait(waking: asyncio.Task[None], longest_s: float) -> None:
        """Until it is done, at the longest so many seconds; cancelling this leaves it running."""
        await asyncio.wait({waking}, timeout=longest_s)

    def _left_s(self) -> float:
        """Seconds until the replica is expected, at least one."""
        return max(1.0, self._start_s - (self._clock() - self._waking_since))

    def _starting(self, why: str) -> Unavailable:
        left_s = self._left_s()
        return Unavailable(
            f"Model {self._name!r} had no replica and is being started, which takes about {left_s:.0f} s more; {why}.",
            code=STARTING,
            retry_after_s=left_s,
        )
