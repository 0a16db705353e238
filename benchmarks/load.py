"""Load drivers for one asyncio process: open-loop Poisson arrivals, and a closed loop of N connections.

The open loop sends when the schedule says so, however slow the answers are, and measures each latency from the
*intended* send time: a driver that waits for answers before it sends again would hide the queue that it caused
("coordinated omission", Gil Tene, https://github.com/giltene/wrk2).
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

Call = Callable[[int], Awaitable[object]]
"""Sends request number n and returns when it is answered; an exception is a failed request."""


@dataclass(slots=True)
class Sample:
    """One request; times are seconds since the run began.

    Attributes:
        intended: when it should have been sent.
        ended: when its answer came; None when it was given up at the end of the run.
        error: name of the exception that it raised, or None.
    """

    intended: float
    ended: float | None = None
    error: str | None = None


@dataclass(slots=True)
class Run:
    """What a driver did.

    Attributes:
        start, end: the measured window; what was sent before is warm-up.
        closed: when the driver stopped waiting.
    """

    start: float
    end: float
    closed: float = 0.0
    samples: list[Sample] = field(default_factory=list)

    def offered_per_s(self) -> float:
        """Requests due in the window, a second."""
        return sum(self.start <= s.intended < self.end for s in self.samples) / (self.end - self.start)

    def done_per_s(self) -> float:
        """Requests answered without error in the window, whenever they were sent, a second."""
        done = sum(s.ended is not None and s.error is None and self.start <= s.ended < self.end for s in self.samples)
        return done / (self.end - self.start)

    def slope_per_s(self) -> float:
        """Answers a second as the slope of a least-squares line through (time, answers so far) in the window.

        Answers that come in bursts of a batch make a count between two moments wrong by up to a burst; this is not.
        """
        times = sorted(
            s.ended
            for s in self.samples
            if s.ended is not None and s.error is None and self.start <= s.ended < self.end
        )
        count = len(times)
        mean_t, mean_k = sum(times) / max(1, count), (count + 1) / 2
        spread = sum((t - mean_t) ** 2 for t in times)
        if not spread:
            return 0.0
        return sum((t - mean_t) * (k - mean_k) for k, t in enumerate(times, start=1)) / spread

    def errors(self) -> dict[str, int]:
        """How often each exception was raised."""
        counts: dict[str, int] = {}
        for sample in self.samples:
            if sample.error is not None:
                counts[sample.error] = counts.get(sample.error, 0) + 1
        return counts

    def unanswered(self) -> int:
        """Requests given up at the end."""
        return sum(sample.ended is None for sample in self.samples)

    def latencies(self) -> list[float]:
        """Seconds from the intended send time, sorted, of what was due in the window and did not fail.

        A request given up counts with the time it had waited by then: a lower bound of its latency.
        """
        return sorted(
            (self.closed if s.ended is None else s.ended) - s.intended
            for s in self.samples
            if self.start <= s.intended < self.end and s.error is None
        )


def quantile(ordered: Sequence[float], q: float) -> float:
    """The smallest value that a share `q` of `ordered` does not exceed (nearest rank); NaN when there are none."""
    if not ordered:
        return math.nan
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)]


def poisson_arrivals(rate_per_s: float, seconds: float, seed: int) -> list[float]:
    """Arrival times of a Poisson process in [0, seconds)."""
    draw = random.Random(seed)
    times: list[float] = []
    now = draw.expovariate(rate_per_s)
    while now < seconds:
        times.append(now)
        now += draw.expovariate(rate_per_s)
    return times


async def open_loop(call: Call, times: Sequence[float], *, warm_up_s: float, seconds: float, grace_s: float) -> Run:
    """Sends request n at `times[n]`, whether or not earlier ones were answered.

    Args:
        times: sorted, in seconds from now.
        warm_up_s: requests due before this are sent and not measured.
        seconds: end of the window.
        grace_s: how long to wait for answers after the window; what is left is cancelled.
    """
    began = time.monotonic()
    run = Run(warm_up_s, seconds)
    tasks: set[asyncio.Task[None]] = set()
    for number, due in enumerate(times):
        if (ahead := began + due - time.monotonic()) > 0:
            await asyncio.sleep(ahead)
        sample = Sample(due)
        run.samples.append(sample)
        task = asyncio.create_task(_one(call, number, sample, began))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    left = began + seconds + grace_s - time.monotonic()
    if pending := set(tasks):
        await asyncio.wait(pending, timeout=max(0.0, left))
    run.closed = time.monotonic() - began
    await _cancel(tasks)
    return run


async def closed_loop(call: Call, *, connections: int, warm_up_s: float, seconds: float) -> Run:
    """Keeps `connections` requests in progress, each followed by the next, until `seconds` have passed."""
    began = time.monotonic()
    run = Run(warm_up_s, seconds)

    async def connection(first: int) -> None:
        number = first
        while (now := time.monotonic() - began) < seconds:
            sample = Sample(now)
            run.samples.append(sample)
            await _one(call, number, sample, began)
            number += connections

    await asyncio.gather(*(connection(i) for i in range(connections)))
    run.closed = time.monotonic() - began
    return run


async def _one(call: Call, number: int, sample: Sample, began: float) -> None:
    try:
        await call(number)
    except asyncio.CancelledError:
        raise
    except Exception as error:
        sample.error = type(error).__name__
    sample.ended = time.monotonic() - began


async def _cancel(tasks: set[asyncio.Task[None]]) -> None:
    pending = set(tasks)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
