"""One fault under traffic: callers send on schedule, something breaks in between, and what became of it is judged."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from benchmarks.chaos.callers import Caller, Refused
from benchmarks.chaos.model import asked_again
from benchmarks.chaos.outcome import CUT, HANG, NO_CONNECTION, OK, WRONG, Allowed, Broke, Sent, misses, recovery_s, row
from benchmarks.chaos.site import NotMade, Site
from benchmarks.load import open_loop
from benchmarks.traffic.arrivals import Poisson

# Beyond its deadline a request is answered within this, or hangs. Generous: on a small machine that is starting
# processes, client and server wait for a core.
GRACE_S: Final = 5.0
_WELL_IN_A_ROW: Final = 3
# The routers' counters are read when they have been exported: the clusters here export every second.
_EXPORT_S: Final = 2.5


@dataclass(frozen=True)
class Scenario:
    """A fault and what it may do.

    Attributes:
        name: as on the command line.
        title: what breaks.
        site: of `sites.SITES`, where it breaks.
        callers: makes the traffic.
        breaks: a context that breaks something when it is entered, and mends it when it is left. Its exceptions are
            `Skipped` and `NotMade`; what is wrong with how the service took it goes into the list.
        allowed: see `outcome.Allowed`.
        seconds: of traffic, before it ends.
        fault_s: when it breaks.
        lasts_s: for how long; 0 for what cannot be mended.
        before: makes sure, while all is well, that the fault will hit something.
    """

    name: str
    title: str
    site: str
    callers: Callable[[], Sequence[Caller]]
    breaks: Callable[[Site, list[str]], AbstractAsyncContextManager[None]]
    allowed: Allowed = field(default_factory=Allowed)
    seconds: float = 12.0
    fault_s: float = 3.0
    lasts_s: float = 0.0
    before: Callable[[Site], Awaitable[None]] | None = None


async def play(scenario: Scenario, site: Site, *, seed: int, grace_s: float = GRACE_S) -> dict[str, Any]:
    """The row of one fault, with its `misses`.

    Raises:
        Skipped: it cannot be made here.
    """
    callers = scenario.callers()
    async with site.client() as client:
        try:
            if scenario.before is not None:
                await scenario.before(site)
            for caller in callers:
                await caller.prepare(client, site)
            return await _play(scenario, site, callers, client, seed, grace_s)
        finally:
            for caller in callers:
                await caller.close()


async def _play(
    scenario: Scenario, site: Site, callers: Sequence[Caller], client: httpx.AsyncClient, seed: int, grace_s: float
) -> dict[str, Any]:
    before, again = await asyncio.to_thread(site.retries), asked_again(site.folder)
    wrong: list[str] = []
    began = time.monotonic()
    breaking = asyncio.create_task(_break(scenario, site, wrong, began))
    try:
        runs = (
            _traffic(caller, client, scenario.seconds, 100 * seed + number, grace_s)
            for number, caller in enumerate(callers)
        )
        sent = [one for run in await asyncio.gather(*runs) for one in run]
        broke = await breaking
    finally:
        breaking.cancel()
        await asyncio.gather(breaking, return_exceptions=True)
    later = await _until_well(callers, client, scenario.allowed.recovery_s, grace_s)
    recovered = None
    if later is not None:
        # Of those who were not answered at once after the traffic's end, the time until they were counts.
        recovered = max(recovery_s(sent, broke.from_s), later - began - broke.from_s if later else 0.0)
    lost = [one for caller in callers for one in await _lost(caller, client)]
    await asyncio.sleep(_EXPORT_S)
    after = await asyncio.to_thread(site.retries)
    retried = None if before is None or after is None else max(0, round(after - before))
    figures = row(sent, recovered, retried, asked_again(site.folder) - again)
    found = [*wrong, *misses(sent, scenario.allowed, broke, recovered, lost)]
    return {"fault": scenario.name, "title": scenario.title, **figures, "lost": len(lost), "misses": found}


async def _break(scenario: Scenario, site: Site, wrong: list[str], began: float) -> Broke:
    """Breaks and mends."""
    await asyncio.sleep(scenario.fault_s)
    from_s = to_s = time.monotonic() - began
    try:
        async with scenario.breaks(site, wrong):
            to_s = time.monotonic() - began
            await asyncio.sleep(scenario.lasts_s)
    except NotMade as problem:
        wrong.append(f"the fault was not made: {problem}")
    return Broke(from_s, to_s)


async def _traffic(caller: Caller, client: httpx.AsyncClient, seconds: float, seed: int, grace_s: float) -> list[Sent]:
    codes: dict[int, str] = {}
    bound_s = caller.deadline_s + grace_s

    async def call(number: int) -> None:
        codes[number] = await _code_of(caller.send(client, number), bound_s)

    times = Poisson(rate_per_s=caller.rate_per_s).times(seconds, seed).tolist()
    run = await open_loop(call, times, warm_up_s=0.0, seconds=seconds, grace_s=bound_s + 1)
    return [
        Sent(
            caller.name,
            caller.neighbour,
            sample.intended,
            run.closed if sample.ended is None else sample.ended,
            codes.get(number, HANG),
        )
        for number, sample in enumerate(run.samples)
    ]


async def _code_of(request: Awaitable[None], bound_s: float) -> str:
    try:
        async with asyncio.timeout(bound_s):
            await request
    except TimeoutError:
        return HANG
    except Refused as refused:
        return refused.code
    except (httpx.ConnectError, httpx.ConnectTimeout):
        return NO_CONNECTION
    except httpx.TransportError:
        return CUT
    except (KeyError, TypeError, ValueError):
        return WRONG
    return OK


async def _until_well(
    callers: Sequence[Caller], client: httpx.AsyncClient, longest_s: float, grace_s: float
) -> float | None:
    """When every caller was answered a few times in a row; 0 when none ever failed, None when it did not come to be."""
    ends = time.monotonic() + longest_s
    failed_once = False
    number = 1_000_000
    for caller in callers:
        in_a_row = 0
        while in_a_row < _WELL_IN_A_ROW:
            if time.monotonic() > ends:
                return None
            number += 1
            code = await _code_of(caller.send(client, number), caller.deadline_s + grace_s)
            in_a_row = in_a_row + 1 if code == OK else 0
            failed_once |= code != OK
            await asyncio.sleep(0.0 if code == OK else 0.25)
    return time.monotonic() if failed_once else 0.0


async def _lost(caller: Caller, client: httpx.AsyncClient) -> list[str]:
    try:
        return await caller.lost(client)
    except (httpx.TransportError, Refused) as error:
        return [f"{caller.name}: what is there cannot be asked: {error!r}"]
