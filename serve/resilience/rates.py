"""Rates a minute: GCRA (ITU-T I.371), which is a token bucket that remembers one time for each name.

The `limits` package counts windows: what it refuses it may have counted, it takes nothing back, and it cannot say when
a request of several units would fit. We estimate tokens before a call and know them after it, so all three are needed.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from serve.resilience.shared import NotShared, SharedStore

_MINUTE_S = 60.0
_MOST_NAMES = 10_000

# KEYS: one for each rate. ARGV: 1 to take whatever is there, then a minute's amount and the units wanted, for each; all
# are taken or none. Redis's own clock, so that replicas need not agree on the time. Answers the seconds to wait, as
# text, 0 when the units were taken.
_TAKE = """
local t = redis.call('time')
local now = t[1] + t[2] / 1e6
local wait = 0
local full = {}
for i, key in ipairs(KEYS) do
  local amount, units = tonumber(ARGV[2 * i]), tonumber(ARGV[2 * i + 1])
  full[i] = math.max(now, tonumber(redis.call('get', key) or 0)) + units * 60 / amount
  if units > 0 then wait = math.max(wait, full[i] - math.max(0, units - amount) * 60 / amount - now - 60) end
end
if ARGV[1] == '0' and wait > 1e-9 then return tostring(wait) end
for i, key in ipairs(KEYS) do
  redis.call('set', key, string.format('%.6f', full[i]), 'PX', math.ceil(math.max(1, full[i] - now) * 1000))
end
return '0'
"""


@dataclass(frozen=True, slots=True)
class Rate:
    """A name, what it may use in a minute, and the units that are wanted of it (negative ones are given back)."""

    name: str
    per_minute: int
    units: int


def take(full_at: float, rate: Rate, now: float) -> tuple[float, float]:
    """`taken` of a rate."""
    return taken(full_at, rate.units, rate.per_minute, now)


def taken(full_at: float, units: float, per_minute: float, now: float) -> tuple[float, float]:
    """GCRA's step: the bucket of a minute's amount would be full again at `full_at`.

    The simulator compiles it, so it is of plain numbers.

    Returns:
        When it would be after the units were taken, and seconds until they may be; more units than a minute has fit
        when the bucket is full.
    """
    begins = max(now, full_at)
    after = begins + units * _MINUTE_S / per_minute
    least = min(units, per_minute) * _MINUTE_S / per_minute
    return after, max(0.0, begins + least - now - _MINUTE_S) if units > 0 else 0.0


class Rates:
    """Every rate of a router replica; shared between replicas where there is a Redis.

    Args:
        replicas: of the router: without Redis each may use its part of an amount.
    """

    def __init__(self, shared: SharedStore | None, replicas: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._shared = shared
        self._script = shared.script(_TAKE) if shared else None
        self._replicas = replicas
        self._clock = clock
        self._full_at: OrderedDict[str, float] = OrderedDict()

    async def take(self, *rates: Rate) -> float:
        """Takes the units of all rates and gives 0, or takes none and gives the seconds until it could."""
        return await self._take(rates, force=False) if rates else 0.0

    async def adjust(self, *rates: Rate) -> None:
        """Takes, or gives back, units that have been used already: what is not there is owed."""
        if changed := tuple(rate for rate in rates if rate.units):
            await self._take(changed, force=True)

    async def _take(self, rates: tuple[Rate, ...], *, force: bool) -> float:
        if self._shared is not None and self._script is not None:
            shared, script = self._shared, self._script
            keys = [shared.key("rate", rate.name) for rate in rates]
            amounts = [n for rate in rates for n in (rate.per_minute, rate.units)]
            try:
                return float(await shared.ask(lambda _: script(keys=keys, args=[int(force), *amounts])))
            except NotShared:
                pass
        return self._take_here(rates, force)

    def _take_here(self, rates: tuple[Rate, ...], force: bool) -> float:
        now = self._clock()
        own = [Rate(r.name, max(1, r.per_minute // self._replicas), r.units) for r in rates]
        steps = [take(self._full_at.get(rate.name, now), rate, now) for rate in own]
        wait = max(wait for _, wait in steps)
        if wait > 1e-9 and not force:
            return wait
        for rate, (after, _) in zip(own, steps, strict=True):
            self._full_at[rate.name] = after
            self._full_at.move_to_end(rate.name)
            if len(self._full_at) > _MOST_NAMES:
                self._full_at.popitem(last=False)
        return 0.0
