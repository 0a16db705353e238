"""Runs jobs in a router replica.

Every replica has one runner; that no job runs twice at once is the store's care. A runner that dies leaves its jobs to
the others when their leases pass, with all parts that were finished. Jobs that take hours have places of their own:
however many of them wait, they delay none of the others.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import orjson

from deployments.jobs.types import Claim
from serve import tracing
from serve.context import RequestContext
from serve.errors import ArgusError, DeadlineExceeded
from serve.jobs.failures import retry_after_s
from serve.jobs.hold import Hold
from serve.jobs.operation import JobInput, Operation
from serve.jobs.service import JobService, cause_of, read_fields, unknown_operation
from serve.request_log import log

# Seconds in which the store must have answered.
_STORE_S: Final = 30.0


class JobRunner:
    """See the module's text.

    Args:
        jobs: where they are.
        operations: what they can be, by name.
        long: names of those that take hours.
        look_s: seconds between looks for a job, when none was submitted in this replica.
        beat_s: seconds between a job's signs of life, which also bring word of its cancellation.
    """

    def __init__(
        self,
        jobs: JobService,
        operations: Mapping[str, Operation],
        *,
        long: Collection[str] = (),
        look_s: float = 1.0,
        beat_s: float = 2.0,
    ) -> None:
        self._jobs = jobs
        self._settings = jobs.settings
        self._operations = operations
        self._long = long
        self._look_s = look_s
        self._beat_s = min(beat_s, jobs.settings.lease_s / 3)
        self._running: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def started(self) -> AsyncIterator[None]:
        """Runs jobs within the block. At its end those under way are given back, for others to resume."""
        if not self._jobs.offered:
            yield
            return
        short = [name for name in self._operations if name not in self._long]
        kinds = [(self._settings.concurrency, self._long)]
        if self._long:
            kinds.append((self._settings.long_concurrency, short))
        # An event for each kind: a look that clears it must not take the news from the other.
        news = [asyncio.Event() for _ in kinds]
        self._jobs.on_submit = lambda: _set(news)
        serving = [
            asyncio.create_task(self._serve(at_once, without, submitted))
            for (at_once, without), submitted in zip(kinds, news, strict=True)
        ]
        try:
            yield
        finally:
            await _end(*serving)
            await _end(*self._running)

    async def _serve(self, at_once: int, without: Collection[str], submitted: asyncio.Event) -> None:
        """Runs so many jobs at once, of all operations but some."""
        places = asyncio.Semaphore(at_once)
        while True:
            await places.acquire()
            task = asyncio.create_task(self._execute(await self._next(without, submitted)))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
            task.add_done_callback(lambda _: places.release())

    async def _next(self, without: Collection[str], submitted: asyncio.Event) -> Claim:
        """The next job, as soon as there is one."""
        # One for the whole wait: a claim whose answer was lost is answered with the same job.
        token = secrets.token_hex(16)
        while True:
            submitted.clear()
            try:
                context = RequestContext("job-runner", "", time.monotonic() + _STORE_S)
                claim: Claim | None = await self._jobs.store.call(
                    "claim", context, token, self._settings.lease_s, tuple(without)
                )
                if claim is not None:
                    return claim
            except ArgusError as error:
                log.warning("no job could be claimed", extra={"error": error.message, "code": error.code})
            except Exception:  # whatever it was, jobs go on being looked for
                log.exception("no job could be claimed")
            with suppress(TimeoutError):
                await asyncio.wait_for(submitted.wait(), self._look_s)

    async def _execute(self, claim: Claim) -> None:
        """One attempt at a job, whatever becomes of it."""
        hold = Hold(self._jobs.store, claim, self._settings.lease_s, self._settings.max_result_bytes)
        work = asyncio.create_task(self._work(claim, hold))
        watch = asyncio.create_task(hold.watch(self._beat_s))
        finished = False
        try:
            await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
            finished = work.done() or watch.result() == "lost"
        finally:  # also when the runner stops
            await _end(work, watch)
            if not finished:
                await hold.give_back()

    async def _work(self, claim: Claim, hold: Hold) -> None:
        with tracing.root("job", cause_of(claim.fields)) as span:
            if span is not None:
                job = claim.job
                span.set_attributes(
                    {
                        "argus.operation": job.operation,
                        "argus.attempt": job.attempts,
                        "argus.client": job.owner,
                        "argus.request_id": job.id,
                    }
                )
            error = await self._attempt(claim, hold)
            if span is not None and error is not None:
                tracing.fail(span, error)

    async def _attempt(self, claim: Claim, hold: Hold) -> Exception | None:
        """Runs the job to its end, good or bad; the error of a bad one."""
        job = claim.job
        # Its client's budgets and rates, after all who wait for an answer.
        context = RequestContext(job.id, job.owner, time.monotonic() + self._settings.max_job_s, "low")
        try:
            operation = self._operations.get(job.operation)
            if operation is None:
                raise unknown_operation(job.operation, list(self._operations))
            given = JobInput(read_fields(claim.fields), claim.media)
            done = {key: orjson.loads(value) for key, value in claim.chunks.items()}
            await hold.finish(await self._result(operation, given, context, hold, done))
            return None
        except ArgusError as error:
            await hold.fail(error, retry_after_s(error, context.left_s()))
            return error
        except Exception as error:
            log.exception("a job failed", extra={"request_id": job.id})
            await hold.fail(ArgusError("An internal error occurred; the log has it under the job's id."), None)
            return error

    async def _result(
        self, operation: Operation, given: JobInput, context: RequestContext, hold: Hold, done: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Within the job's time, whether or not the operation looks at its deadline."""
        try:
            async with asyncio.timeout(context.left_s()):
                return await operation.run(given, context, hold.report, done)
        except TimeoutError:
            raise DeadlineExceeded(
                f"The job ran for {self._settings.max_job_s:g} s, the longest that this cluster allows.",
                code="job_timed_out",
            ) from None


def _set(events: Iterable[asyncio.Event]) -> None:
    for event in events:
        event.set()


async def _end(*tasks: asyncio.Task[Any]) -> None:
    """Cancels tasks and waits for their end."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
