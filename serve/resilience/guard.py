"""Every call to a model or provider passes here, in one order (DESIGN rule 6).

Deadline; cache and single flight (`answers`); budget (`purse`); rates, places and breaker (`Target.passage`); hedge;
attempt; retry. A caller that has another way to go (`fallback`) is refused or failed at once, and never waits for a
second attempt.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeVar

from deployments.generation.messages import ChatEvent
from serve import tracing
from serve.calls import Called, Usage
from serve.context import RequestContext
from serve.errors import ArgusError, BudgetExceeded, DeadlineExceeded, Overloaded, RateLimited
from serve.resilience.answers import Answers
from serve.resilience.budget import Budget
from serve.resilience.hedge import race
from serve.resilience.jobs import NOTHING, Attempted, Codec, Job, StreamJob
from serve.resilience.purse import Purse
from serve.resilience.recorder import Recorder
from serve.resilience.retry import pause_before_retry
from serve.resilience.shared import SharedStore
from serve.resilience.target import Attempt, AttemptFailed, Passage, Target
from serve.resilience.tenants import TenantRates

__all__ = ["Attempted", "Codec", "Guard", "Job", "StreamJob"]

T = TypeVar("T")


@dataclass(slots=True)
class _Account:
    """What one call has come to.

    Attributes:
        estimate: of one attempt.
        used: by the attempt that was answered.
        charged: tokens that were taken from the target's rate.
        counted: in the tenant's rates.
        hedged: a second attempt was sent.
    """

    purse: Purse
    estimate: Usage
    used: Usage = NOTHING
    attempts: int = 0
    charged: int = 0
    counted: bool = False
    hedged: bool = False


class Guard:
    """See the module's text.

    Args:
        targets: every model and provider, by name.
        answers: None when nothing is kept.
        tenants: their tokens are counted here, their requests by the edge.
        shared: closed with the guard.
        jitter: uniform in [0, 1).
        on_call: told the target of each call that the cache did not answer, when it begins.
    """

    def __init__(
        self,
        targets: Mapping[str, Target],
        answers: Answers | None,
        budget: Budget,
        tenants: TenantRates,
        recorder: Recorder,
        shared: SharedStore | None = None,
        jitter: Callable[[], float] = random.random,
        on_call: Callable[[str], None] = lambda target: None,
    ) -> None:
        self._targets = targets
        self._answers = answers
        self._budget = budget
        self.tenants = tenants
        self._recorder = recorder
        self._shared = shared
        self._jitter = jitter
        self._on_call = on_call

    def start(self) -> None:
        """Called on the event loop, before the first call."""
        self._budget.start()

    def bound(self, limits: Mapping[str, Sequence[int] | None]) -> None:
        """Other bounds of the calls in progress: least, first and greatest limit of each target."""
        for name, limit in limits.items():
            if limit is not None and name in self._targets:
                self._targets[name].bound(limit[0], limit[2])

    async def run(self, job: Job[T], context: RequestContext, *, fallback: bool = False) -> Called[T]:
        """The job's answer.

        Args:
            fallback: the caller has another way to go: nothing waits before trying again.

        Raises:
            ArgusError: of the last attempt, or of the stage that refused the call.
        """
        with tracing.span("call") as span:
            if span is not None:
                span.set_attribute("argus.model", job.target)
            self._check_deadline(job.target, context)
            if self._answers is None or job.cache_key is None or job.codec is None:
                called = await self._call(job, context, fallback)
            else:
                called = await self._answers.find(job, context, fallback, lambda: self._call(job, context, fallback))
            if span is not None:
                _describe(span, called)
            return called

    async def stream(
        self, job: StreamJob, context: RequestContext, *, fallback: bool = False
    ) -> AsyncGenerator[ChatEvent, None]:
        """The job's answer as it grows; what fails before the first event is tried again like a call.

        Raises:
            ArgusError: of the last attempt, or of the stage that refused the call.
        """
        call = tracing.start("call")
        try:
            async with aclosing(self._stream(job, context, fallback, call)) as events:
                async for event in events:
                    yield event
        except BaseException as error:
            if call is not None:
                tracing.fail(call, error)
            raise
        finally:
            if call is not None:
                call.set_attributes({"argus.model": job.target, "argus.stream": True})
                call.end()

    async def _stream(
        self, job: StreamJob, context: RequestContext, fallback: bool, call: tracing.Span | None
    ) -> AsyncGenerator[ChatEvent, None]:
        self._check_deadline(job.target, context)
        target = self._targets[job.target]
        account = self._open(target, job.estimate, context)
        try:
            for number in itertools.count(1):
                attempt: Attempt | None = None
                try:
                    with tracing.use(call):
                        passage = await self._passage(target, account, context, fallback)
                    with passage:
                        timeout_s = target.attempt_s(context.remaining_s(), fallback)
                        account.attempts += 1
                        with target.attempt(passage, timeout_s) as attempt:
                            async with aclosing(_events(job, attempt, timeout_s, context, target, call)) as events:
                                async for event in events:
                                    yield event
                        account.used = attempt.usage or NOTHING
                    return
                except AttemptFailed as failed:
                    if attempt is not None and attempt.answered_s is not None:
                        raise failed.error from failed.error.__cause__
                    await self._pause_or_raise(target, failed.error, number, context, fallback)
        finally:
            await self._settle(target, account, context)

    async def close(self) -> None:
        """Ends what goes on in the background, and lets connections go."""
        if self._answers is not None:
            await self._answers.close()
        if self._shared is not None:
            await self._shared.close()

    async def _call(self, job: Job[T], context: RequestContext, fallback: bool) -> Called[T]:
        began = time.monotonic()
        target = self._targets[job.target]
        account = self._open(target, job.estimate, context)
        try:
            for number in itertools.count(1):
                try:
                    done = await self._attempt(target, job, account, context, fallback)
                except AttemptFailed as failed:
                    await self._pause_or_raise(target, failed.error, number, context, fallback)
                    continue
                account.used = done.usage
                seconds = time.monotonic() - began
                return Called(done.value, done.usage, seconds, attempts=account.attempts, hedged=account.hedged)
        finally:
            await self._settle(target, account, context)
        raise AssertionError("the loop returns or raises")

    async def _attempt(
        self, target: Target, job: Job[T], account: _Account, context: RequestContext, fallback: bool
    ) -> Attempted[T]:
        """One attempt, with a second beside it when it is late."""
        with await self._passage(target, account, context, fallback) as passage:
            timeout_s = target.attempt_s(context.remaining_s(), fallback)
            account.attempts += 1
            late_s = target.late_s() if job.idempotent else None
            number = account.attempts
            if late_s is None or late_s >= timeout_s:
                return await _made(target, job, passage, timeout_s, number)
            answer, won = await race(
                lambda: _made(target, job, passage, timeout_s, number),
                # Beside another way to go, a hedge has no time of its own: the first attempt's is what is waited.
                lambda: self._second(target, job, account, timeout_s - late_s if fallback else timeout_s, context),
                late_s,
                target.may_hedge,
            )
            if account.hedged:
                self._recorder.hedged(target.name, won is True)
            return answer

    async def _second(
        self, target: Target, job: Job[T], account: _Account, longest_s: float, context: RequestContext
    ) -> Attempted[T]:
        """The hedge. What stands against it (money, a rate, no free place) ends it before it begins."""
        tokens = account.estimate.tokens
        with await account.purse.stake() as stake:
            passage = await target.second_passage(stake, tokens)
            if passage is None:
                raise Overloaded(f"{target.name} has no room for a hedge.")
            with passage:
                account.charged += tokens
                account.attempts += 1
                account.hedged = True
                longest_s = min(longest_s, context.remaining_s())
                return await _made(target, job, passage, longest_s, account.attempts, hedge=True)

    async def _passage(self, target: Target, account: _Account, context: RequestContext, fallback: bool) -> Passage:
        """Money first, then the tenant's rates, then the target's own stages."""
        try:
            stake = await account.purse.stake()
        except BudgetExceeded:
            self._recorder.refused(target.name, "budget")
            raise
        tokens = account.estimate.tokens
        try:
            await self._count_tenant(target, account, context)
            with tracing.span("wait"):
                passage = await target.passage(stake, context, tokens, fallback)
        except BaseException:
            stake.end(0.0)
            raise
        account.charged += tokens
        return passage

    def _open(self, target: Target, estimate: Usage, context: RequestContext) -> _Account:
        """Counts the call; `_settle` must follow."""
        target.called()
        self._on_call(target.name)
        return _Account(Purse(None if target.settings.ours else self._budget, context.client, estimate.usd), estimate)

    async def _settle(self, target: Target, account: _Account, context: RequestContext) -> None:
        """Puts what was used in the place of what was reserved."""
        try:
            if account.purse.spent:
                self._recorder.spent(target.name, account.purse.spent)
            await target.settle_tokens(account.charged, account.used.tokens)
            if account.counted:
                await self.tenants.settle(context.client, account.estimate.tokens, account.used.tokens)
        finally:
            await account.purse.settle()

    async def _count_tenant(self, target: Target, account: _Account, context: RequestContext) -> None:
        """Once a call, however many attempts it takes."""
        if account.counted:
            return
        try:
            await self.tenants.take(context.client, account.estimate.tokens)
        except RateLimited:
            self._recorder.refused(target.name, "tenant_limit")
            raise
        account.counted = True

    async def _pause_or_raise(
        self, target: Target, error: ArgusError, number: int, context: RequestContext, fallback: bool
    ) -> None:
        """Waits for the next attempt, or raises the last one's error when there should be none."""
        settings = target.settings
        pause = None
        if not fallback:
            pause = pause_before_retry(
                error, number, context.left_s(), self._jitter(), rules=settings.retries, ours=settings.ours
            )
        if pause is None or not target.may_retry():
            raise error from error.__cause__
        self._recorder.retried(target.name)
        with tracing.span("pause"):
            await asyncio.sleep(pause)

    def _check_deadline(self, target: str, context: RequestContext) -> None:
        try:
            context.remaining_s()
        except DeadlineExceeded:
            self._recorder.refused(target, "deadline")
            raise


async def _made(
    target: Target, job: Job[T], passage: Passage, timeout_s: float, number: int, *, hedge: bool = False
) -> Attempted[T]:
    with tracing.span("attempt", _kind(target)) as span:
        if span is not None:
            span.set_attributes({"argus.model": target.name, "argus.attempt": number, "argus.hedge": hedge})
        with target.attempt(passage, timeout_s) as attempt:
            async with asyncio.timeout(timeout_s):
                done = await job.attempt(timeout_s)
            attempt.usage = done.usage
        return done


async def _events(
    job: StreamJob,
    attempt: Attempt,
    timeout_s: float,
    context: RequestContext,
    target: Target,
    call: tracing.Span | None,
) -> AsyncGenerator[ChatEvent, None]:
    """The events of an attempt: the first within `timeout_s`, the others before the deadline."""
    span = None if call is None else tracing.start("attempt", kind=_kind(target), parent=call)
    try:
        async with aclosing(job.events(context.remaining_s())) as events:
            while True:
                try:
                    longest_s = timeout_s if attempt.answered_s is None else context.remaining_s()
                    with tracing.use(span):
                        async with asyncio.timeout(longest_s):
                            event = await anext(events)
                except StopAsyncIteration:
                    return
                if isinstance(event, Usage):
                    attempt.usage = event
                    continue
                if attempt.answered_s is None:
                    attempt.answered_s = time.monotonic() - attempt.began
                yield event
    except BaseException as error:
        if span is not None:
            tracing.fail(span, error)
        raise
    finally:
        if span is not None:
            span.set_attribute("argus.model", target.name)
            if attempt.answered_s is not None:
                span.set_attribute("argus.first_event_s", attempt.answered_s)
            span.end()


def _kind(target: Target) -> tracing.Kind:
    """A provider's call has a span of its own, with what its API is told and says."""
    return tracing.Kind.CLIENT if target.settings.ours else tracing.Kind.INTERNAL


def _describe(span: tracing.Span, called: Called[T]) -> None:
    span.set_attributes(
        {
            "argus.cached": called.cached,
            "argus.attempts": called.attempts,
            "argus.hedged": called.hedged,
            "argus.usd": called.usage.usd,
        }
    )
