"""Every call to a model or provider passes here, in one order (DESIGN rule 6)."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TypeVar

from deployments.generation.messages import ChatEvent
from serve.calls import Called, Usage
from serve.context import RequestContext
from serve.errors import ArgusError
from serve.resilience.jobs import Attempted, Codec, Job, StreamJob
from serve.resilience.retry import pause_before_retry

__all__ = ["Attempted", "Codec", "Guard", "Job", "StreamJob"]

T = TypeVar("T")


class Guard:
    """Deadline, retries; the other stages follow."""

    async def run(self, job: Job[T], context: RequestContext, *, fallback: bool = False) -> Called[T]:
        """The job's answer.

        Args:
            fallback: the caller has another way to go: nothing waits before trying again.

        Raises:
            ArgusError: of the last attempt, or of the stage that refused the call.
        """
        started = time.monotonic()
        for attempt in itertools.count(1):
            try:
                done = await job.attempt(context.remaining_s())
                return Called(done.value, done.usage, time.monotonic() - started, attempts=attempt)
            except ArgusError as error:
                await _pause_or_raise(error, attempt, context, fallback)
        raise AssertionError("the loop returns or raises")

    async def stream(
        self, job: StreamJob, context: RequestContext, *, fallback: bool = False
    ) -> AsyncGenerator[ChatEvent, None]:
        """The job's answer as it grows; what fails before the first event is tried again like a call.

        Raises:
            ArgusError: of the last attempt, or of the stage that refused the call.
        """
        for attempt in itertools.count(1):
            begun = False
            try:
                async with aclosing(job.events(context.remaining_s())) as events:
                    async for event in events:
                        if isinstance(event, Usage):
                            continue
                        begun = True
                        yield event
                return
            except ArgusError as error:
                if begun:
                    raise
                await _pause_or_raise(error, attempt, context, fallback)

    async def close(self) -> None:
        """Lets connections go."""


async def _pause_or_raise(error: ArgusError, attempt: int, context: RequestContext, fallback: bool) -> None:
    pause = None if fallback else pause_before_retry(error, attempt, context.left_s(), random.random())
    if pause is None:
        raise error
    await asyncio.sleep(pause)
