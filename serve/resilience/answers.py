"""Answers that need no call: kept ones, and those of the same call of someone else at the same time."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from serve import tracing
from serve.calls import Called
from serve.context import RequestContext
from serve.errors import ArgusError, DeadlineExceeded
from serve.resilience.cache import ResponseCache
from serve.resilience.jobs import NOTHING, Codec, Job
from serve.resilience.recorder import Recorder
from serve.resilience.single_flight import SingleFlight

T = TypeVar("T")


class Answers:
    """See the module's text."""

    def __init__(self, cache: ResponseCache, recorder: Recorder) -> None:
        self._cache = cache
        self._recorder = recorder
        self._flights: SingleFlight[Called[Any]] = SingleFlight()

    @property
    def in_flight(self) -> int:
        """Calls in progress that others may join."""
        return len(self._flights)

    async def find(
        self,
        job: Job[T],
        context: RequestContext,
        fallback: bool,
        call: Callable[[], Coroutine[Any, Any, Called[T]]],
    ) -> Called[T]:
        """The answer of a job with a key, which `call` makes when there is none.

        Only callers of one priority, and with the same need to wait, share a call: nobody is held up by a lower one.

        Raises:
            ArgusError: of the call, or the one that is remembered.
        """
        began = time.monotonic()
        assert job.cache_key is not None, "the guard asks for jobs with a key only"
        assert job.codec is not None, "a job with a key has a codec"
        key, codec = job.cache_key, job.codec
        kept = self._cache.here(key, codec, job.target)
        if kept is not None:
            return _given(kept[0], began)
        flight = (key, context.priority, fallback)
        for may_repeat in (True, False):
            joined = self._flights.flying(flight)
            if joined:
                self._recorder.joined(job.target)
                _link(self._flights.span(flight))
            try:
                called: Called[T] = await self._flights.run(
                    flight, lambda: self._fill(job, key, codec, call), context.remaining_s()
                )
            except DeadlineExceeded:
                if joined and may_repeat and context.left_s() > 0:
                    continue  # the time of whoever began the call was over; ours is not
                raise
            except ArgusError as error:
                if joined:  # each caller its own, which what handles it may change
                    raise copy.copy(error) from error
                raise
            return _given(called.value, began) if joined else called
        raise AssertionError("the second round returns or raises")

    async def close(self) -> None:
        """Ends writes in progress."""
        await self._cache.close()

    async def _fill(
        self, job: Job[T], key: bytes, codec: Codec[T], call: Callable[[], Coroutine[Any, Any, Called[T]]]
    ) -> Called[T]:
        began = time.monotonic()
        kept = await self._cache.elsewhere(key, codec, job.target)
        if kept is not None:
            return _given(kept[0], began)
        try:
            called = await call()
        except ArgusError as error:
            self._cache.put_error(key, error, job.target)
            raise
        self._cache.put(key, codec, called.value, job.target)
        return called


def _link(flight: tracing.Span | None) -> None:
    """The call that waits for another's says which: what that one does is in its trace."""
    waiting = tracing.current()
    if waiting is not None:
        waiting.set_attribute("argus.joined", True)
        if flight is not None:
            waiting.add_link(flight.get_span_context())


def _given(value: T, began: float) -> Called[T]:
    return Called(value, NOTHING, time.monotonic() - began, cached=True, attempts=0)
