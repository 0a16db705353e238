"""The batcher: many requests, one forward pass.

A batch is closed when the model is free to run it, or full; never by a timer while the model is busy. Items that
arrive during a forward pass gather and go together into the next one, so the batch size follows the load by itself.
Ray's `@serve.batch` seals batches by a timer even while the previous one runs, which under load leads to batches of
one (`argus bench batching` shows both in one run).

What callers may rely on:

* An item's error is its own. `run` may return an exception in an item's place. If `run` itself raises, the batch is
  run once more item by item, so that only the guilty ones fail.
* The batcher cannot stop: whatever `run` raises or returns, the loop goes on with the next batch.
* An item whose deadline cannot be met is refused before the forward pass, not after it.
* A cancelled caller's item is not run, unless its batch has started.
* Queue and batch are bounded, by count and by cost (pixels, frames, tokens: the adapter decides).
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from deployments import batch_policy as policy
from deployments.forward_estimate import ForwardEstimate
from deployments.tracing import TracedPass
from serve import tracing
from serve.errors import ArgusError, DeadlineExceeded, ModelFailed, Overloaded, PayloadTooLarge, Unavailable

In = TypeVar("In")
Out = TypeVar("Out")


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Bounds of one batcher.

    Attributes:
        max_items: most items in a batch.
        max_cost: most summed cost in a batch, in the adapter's unit; infinite by default.
        max_wait_s: longest time an idle model waits for company, in seconds, and at most a quarter of a forward pass.
            It waits only for as many items as the last batch held: a lone caller is never kept waiting, a herd that
            returns together is not split.
        max_queue: most items waiting; one more is refused with `Overloaded`.
    """

    max_items: int = 32
    max_cost: float = math.inf
    max_wait_s: float = 0.002
    max_queue: int = 1024

    def __post_init__(self) -> None:
        for name in ("max_items", "max_queue"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not self.max_cost > 0:
            raise ValueError(f"max_cost is {self.max_cost}; it must be above 0")
        if not 0 <= self.max_wait_s < math.inf:
            raise ValueError(f"max_wait_s is {self.max_wait_s}; it must be finite and at least 0")


class BatchObserver(Protocol):
    """Where a batcher reports to; a replica turns these into metrics. Must not raise."""

    def batch_ran(self, *, items: int, cost: float, forward_s: float, waits_s: Sequence[float]) -> None:
        """A forward pass ended. `waits_s`: each item's time from `submit` to the start of the pass."""

    def dropped(self, reason: str) -> None:
        """An item left the queue without running: `deadline` or `cancelled`."""

    def retried_alone(self, items: int) -> None:
        """A batch failed as a whole and is run again item by item."""


class SilentObserver:
    """Reports nothing."""

    def batch_ran(self, *, items: int, cost: float, forward_s: float, waits_s: Sequence[float]) -> None: ...

    def dropped(self, reason: str) -> None: ...

    def retried_alone(self, items: int) -> None: ...


@dataclass(slots=True, eq=False)
class _Entry(Generic[In, Out]):
    """An item that waits or runs.

    Attributes:
        enqueued: when it came.
        queued: since when it waits: since then, or since the end of a pass that failed with it.
    """

    item: In
    cost: float
    lane: Hashable
    deadline: float
    enqueued: float
    queued: float
    result: asyncio.Future[Out]
    span: tracing.Span | None


class Batcher(Generic[In, Out]):
    """Collects items while the model is busy and runs them together when it is free.

    Args:
        run: the forward pass: takes the items of one lane, returns as many results in their order; an exception in a
            result's place fails that item alone. It must not block the event loop: run blocking code in a thread.
        limits: see `BatchLimits`.
        observer: see `BatchObserver`.
        clock: monotonic seconds; deadlines are on this clock.

    Use from one event loop only. `start` happens on the first `submit`; call `close` when done.
    """

    def __init__(
        self,
        run: Callable[[list[In]], Awaitable[Sequence[Out | BaseException]]],
        limits: BatchLimits | None = None,
        *,
        observer: BatchObserver | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._limits = limits or BatchLimits()
        self._observer = observer or SilentObserver()
        self._clock = clock
        # Items that may share a batch, oldest first. An empty lane is removed.
        self._lanes: dict[Hashable, deque[_Entry[In, Out]]] = {}
        self._waiting = 0
        self._arrival = asyncio.Event()
        self._estimate = ForwardEstimate()
        self._last_size = 1
        self._last_cost = 0.0
        self._running_since: float | None = None
        self._last_pass_s = 0.0
        self._standing_s = 0.0
        self._loop_task: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def waiting(self) -> int:
        """Items in the queue, not counting those in the running batch."""
        return self._waiting

    def running_for(self) -> float:
        """Seconds that the present forward pass has taken so far; 0 when idle."""
        return 0.0 if self._running_since is None else self._clock() - self._running_since

    def limit(self, limits: BatchLimits) -> None:
        """Other limits, from the next batch on. Whoever waits stays; what costs more than a batch may, runs alone."""
        self._limits = limits
        for entries in self._lanes.values():
            for entry in entries:
                entry.cost = min(entry.cost, limits.max_cost)
        self._arrival.set()

    @property
    def standing_wait_s(self) -> float:
        """Mean wait of the last batch's items beyond the pass before it: 0 while each batch takes all that gathered.

        That an item waits for the running pass to end is how batches come about; what it waits longer, it waits because
        there is more than the model can do (CoDel's standing queue, Nichols and Jacobson 2012).
        """
        return self._standing_s

    def expected_wait_s(self) -> float:
        """Estimated seconds until an item that arrives now has been run."""
        most = self._limits.max_items
        pass_s = self._estimate.seconds(float(policy.next_items(self._waiting, most)))
        return policy.expected_wait_s(self._waiting, self._running_since is not None, most, pass_s)

    async def submit(self, item: In, *, cost: float = 1.0, lane: Hashable = None, deadline: float = math.inf) -> Out:
        """Runs `item` in some batch and returns its result.

        Args:
            cost: the item's share of `max_cost`.
            lane: only items of an equal lane share a batch (image and text, two resolutions).
            deadline: on the batcher's clock, in seconds.

        Raises:
            PayloadTooLarge: the item alone costs more than a batch may (`item_too_large`).
            Overloaded: the queue is full; `retry_after_s` is the estimated time to drain it.
            DeadlineExceeded: it would not end in time, so it did not run.
            Unavailable: the batcher is closed.
            Exception: whatever `run` gave for this item.
        """
        if self._closed:
            raise Unavailable("The model is shutting down.", retry_after_s=1.0)
        if not 0 < cost <= self._limits.max_cost:
            raise PayloadTooLarge(
                f"This input costs {cost:g}; one batch of this model holds at most {self._limits.max_cost:g}.",
                code="item_too_large",
            )
        if self._waiting >= self._limits.max_queue:
            raise Overloaded(
                f"The model's queue is full ({self._limits.max_queue} waiting).", retry_after_s=self.expected_wait_s()
            )
        now = self._clock()
        entry: _Entry[In, Out] = _Entry(
            item,
            cost,
            lane,
            deadline,
            now,
            now,
            asyncio.get_running_loop().create_future(),
            tracing.current(),
        )
        self._lanes.setdefault(lane, deque()).append(entry)
        self._waiting += 1
        if self._loop_task is None or self._loop_task.done():
            # In a context of its own: it outlives the request that begins it.
            self._loop_task = asyncio.create_task(self._loop(), name="batcher", context=contextvars.Context())
        self._arrival.set()
        return await self._result(entry)

    async def _result(self, entry: _Entry[In, Out]) -> Out:
        """Waits for the entry's result, at the longest until its deadline: a pass that hangs must not hang callers."""
        if entry.deadline == math.inf:
            return await entry.result
        expired = DeadlineExceeded("The deadline passed before the model had answered.")
        timer = entry.result.get_loop().call_later(entry.deadline - self._clock(), _fail, entry, expired)
        try:
            return await entry.result
        finally:
            timer.cancel()

    async def close(self) -> None:
        """Refuses what waits, lets the running batch end."""
        self._closed = True
        for entries in self._lanes.values():
            for entry in entries:
                _fail(entry, Unavailable("The model is shutting down.", retry_after_s=1.0))
        self._lanes.clear()
        self._waiting = 0
        self._arrival.set()
        if self._loop_task is not None:
            await self._loop_task

    async def _loop(self) -> None:
        while not self._closed:
            if not self._waiting:
                self._arrival.clear()
                await self._arrival.wait()
                continue
            await self._linger()
            if self._waiting and (batch := self._collect()):
                self._last_size = len(batch)
                self._last_cost = sum(entry.cost for entry in batch)
                await self._execute(batch)

    async def _linger(self) -> None:
        """Waits, model idle, until as many items have come as the last batch held.

        At most `max_wait_s` and a share of the pass: waiting costs the latter of everyone, whatever it brings.
        """
        wanted = policy.company(self._last_size, self._limits.max_items)
        until = self._clock() + policy.linger_s(self._limits.max_wait_s, self._estimate.seconds(self._last_cost))
        while self._waiting < wanted and not self._closed:
            left = until - self._clock()
            if left <= 0:
                return
            self._arrival.clear()
            try:
                async with asyncio.timeout(left):
                    await self._arrival.wait()
            except TimeoutError:
                return

    def _collect(self) -> list[_Entry[In, Out]]:
        """Takes the next batch from the lane whose head has waited longest, leaving out what is dead."""
        now, limits = self._clock(), self._limits
        batch: list[_Entry[In, Out]] = []
        cost, tightest = 0.0, math.inf
        fixed_s, cost_s = self._estimate.line()
        lane = list(self._lanes)[policy.oldest([entries[0].enqueued for entries in self._lanes.values()])]
        entries = self._lanes[lane]
        while entries and len(batch) < limits.max_items:
            entry = entries[0]
            if entry.result.done():
                self._observer.dropped(_why_dead(entry))
                entries.popleft()
                self._waiting -= 1
                continue
            together = cost + entry.cost
            verdict = policy.ruling(together, limits.max_cost, tightest, entry.deadline, now, fixed_s, cost_s)
            if verdict == policy.FULL:
                break
            if verdict == policy.LATE:
                self._refuse_late(entry, now)
                fixed_s, cost_s = self._estimate.line()
            else:
                batch.append(entry)
                cost = together
                if entry.deadline < tightest:
                    tightest = entry.deadline
            entries.popleft()
            self._waiting -= 1
        if not entries:
            del self._lanes[lane]
        return batch

    def _refuse_late(self, entry: _Entry[In, Out], now: float) -> None:
        if entry.deadline > now:
            self._estimate.relax()
        self._observer.dropped("deadline")
        _fail(entry, DeadlineExceeded(f"Waited {now - entry.enqueued:.3f} s and could not end before its deadline."))

    async def _execute(self, batch: list[_Entry[In, Out]]) -> None:
        results = await self._forward(batch)
        if isinstance(results, BaseException) and len(batch) > 1:
            self._observer.retried_alone(len(batch))
            failed = self._clock()
            for entry in batch:
                entry.queued = failed
            for entry in batch:
                await self._execute_alone(entry)
        elif isinstance(results, BaseException):
            _fail(batch[0], results)
        else:
            for entry, result in zip(batch, results, strict=True):
                _settle(entry, result)

    async def _execute_alone(self, entry: _Entry[In, Out]) -> None:
        if entry.result.done():
            self._observer.dropped(_why_dead(entry))
        elif (now := self._clock()) >= entry.deadline:
            self._refuse_late(entry, now)
        else:
            await self._execute([entry])

    async def _forward(self, batch: list[_Entry[In, Out]]) -> Sequence[Out | BaseException] | BaseException:
        """Results in order, or the exception that failed the batch as a whole."""
        spans = [entry.span for entry in batch]
        if not any(spans):
            return await self._pass(batch)
        now = self._clock()
        waited = [now - entry.queued for entry in batch]
        with TracedPass(spans, waited, sum(entry.cost for entry in batch)) as traced:
            results = await self._pass(batch)
            if isinstance(results, BaseException):
                traced.failed(results)
            return results

    async def _pass(self, batch: list[_Entry[In, Out]]) -> Sequence[Out | BaseException] | BaseException:
        started = self._running_since = self._clock()
        cost = sum(entry.cost for entry in batch)
        try:
            results = await self._run([entry.item for entry in batch])
            if len(results) != len(batch):
                return ModelFailed(f"The model returned {len(results)} results for {len(batch)} items.")
        except asyncio.CancelledError as cancelled:
            if being_cancelled():
                for entry in batch:
                    _fail(entry, Unavailable("The model is shutting down.", retry_after_s=1.0))
                raise
            return ModelFailed(f"The forward pass was cancelled: {cancelled!r}")
        except BaseException as error:  # a SystemExit from a library must not stop the queue either
            return error
        finally:
            self._running_since = None
        seconds = self._clock() - started
        self._estimate.observe(cost, seconds)
        waits = [started - entry.enqueued for entry in batch]
        usual = policy.usual_wait_s(self._last_pass_s, self._limits.max_wait_s)
        self._standing_s = sum(max(0.0, wait - usual) for wait in waits) / len(waits)
        self._last_pass_s = seconds
        self._observer.batch_ran(items=len(batch), cost=cost, forward_s=seconds, waits_s=waits)
        return results


def _why_dead(entry: _Entry[In, Out]) -> str:
    return "cancelled" if entry.result.cancelled() else "deadline"


def being_cancelled() -> bool:
    """Whether the CancelledError in hand is meant for this task, rather than for something that it awaits."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _settle(entry: _Entry[In, Out], result: Out | BaseException) -> None:
    if isinstance(result, BaseException):
        _fail(entry, result)
    elif not entry.result.done():
        entry.result.set_result(result)


def _fail(entry: _Entry[In, Out], error: BaseException) -> None:
    if entry.result.done():
        return
    # Futures refuse StopIteration, and a CancelledError or SystemExit would look like the caller's own; anything
    # outside our tree becomes ModelFailed, so that callers and skins meet one kind of error.
    if not isinstance(error, ArgusError):
        failure = ModelFailed(f"The model failed on this input: {type(error).__name__}: {error}")
        failure.__cause__ = error
        error = failure
    entry.result.set_exception(error)
