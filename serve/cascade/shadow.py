"""Accepted answers checked by the next step, after the response: without this, accepted errors are never seen."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable
from typing import Protocol

from serve import tracing
from serve.cascade import rules
from serve.cascade.recorder import CascadeRecorder
from serve.cascade.run import Runner
from serve.cascade.types import Asked, CascadeResult
from serve.config.cascades import Cascade, CascadeStep, Shadow
from serve.context import RequestContext
from serve.errors import ArgusError

# Whose money and limits such checks count towards: no client's.
SHADOW_CLIENT = "shadow"


class DriftTest(Protocol):
    """A sequential test of whether more than a stated share of answers is wrong."""

    @property
    def evidence(self) -> float:
        """How many times more the comparisons so far speak for it than against."""
        ...

    def update(self, error: bool) -> bool:
        """Takes the next comparison; whether the alarm is raised."""
        ...


class Shadows:
    """The checks of one cascade.

    Args:
        drift: makes the test of one step.
    """

    def __init__(
        self,
        name: str,
        cascade: Cascade,
        runner: Runner,
        recorder: CascadeRecorder,
        drift: Callable[[Shadow], DriftTest],
    ) -> None:
        self._name = name
        self._cascade = cascade
        self._runner = runner
        self._recorder = recorder
        self._new_test = drift
        self._tests: dict[str, DriftTest] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.alarms: set[str] = set()

    def consider(self, result: CascadeResult, asked: Asked, context: RequestContext, key: str) -> None:
        """Starts a check in the background when the request is one of the share; does not wait for it.

        Args:
            key: tells one question from the others of the request.
        """
        shadow = self._cascade.shadow
        if not result.accepted or not rules.drawn(f"{context.request_id}/{key}", shadow.share):
            return
        step = self._cascade.step(result.step)
        following = self._cascade.after(step)
        if following is None:
            return
        if len(self._tasks) >= shadow.max_in_flight:
            self._recorder.shadowed(self._name, step.name, "dropped")
            return
        own = RequestContext(context.request_id, SHADOW_CLIENT, time.monotonic() + shadow.deadline_s, priority="low")
        # In a context of its own: what its calls wait for says nothing of the client's request.
        task = asyncio.get_running_loop().create_task(
            self._traced_check(step, following, result, asked, own, tracing.link_to(tracing.current())),
            context=contextvars.Context(),
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def drained(self) -> None:
        """Returns when no check is in progress."""
        while self._tasks:
            await asyncio.gather(*self._tasks)

    async def _traced_check(
        self,
        step: CascadeStep,
        following: CascadeStep,
        result: CascadeResult,
        asked: Asked,
        context: RequestContext,
        cause: tracing.Link | None,
    ) -> None:
        if cause is None:
            await self._check(step, following, result, asked, context)
            return
        with tracing.root("shadow", cause) as span:
            if span is not None:
                span.set_attributes({"argus.cascade": self._name, "argus.step": following.name})
            await self._check(step, following, result, asked, context)

    async def _check(
        self, step: CascadeStep, following: CascadeStep, result: CascadeResult, asked: Asked, context: RequestContext
    ) -> None:
        try:
            answer = await self._runner.one(following, asked, context)
        except ArgusError:
            self._recorder.shadowed(self._name, step.name, "failed")
            return
        wrong = not rules.same(result.value, answer.value)
        self._recorder.shadowed(self._name, step.name, "disagreed" if wrong else "agreed")
        if step.name not in self._tests:
            self._tests[step.name] = self._new_test(self._cascade.shadow)
        alarm = self._tests[step.name].update(wrong)
        (self.alarms.add if alarm else self.alarms.discard)(step.name)
        self._recorder.drifting(self._name, step.name, alarm, self._tests[step.name].evidence)
