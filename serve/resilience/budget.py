"""Money a day (UTC): reserved before a call from what it may cost, settled after it with what it did.

Counted in whole billionths of a dollar, so that sums do not drift: a token of a small model costs some hundred of them.
Without Redis a router replica has its part of each budget (the amount divided by `router.replicas`) and forgets what
was spent when it restarts. With a Redis that is away it has its part of what was left when it heard of it last, and
tells it what it spent meanwhile when it is back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from serve.errors import BudgetExceeded
from serve.resilience.recorder import Counted, Recorder
from serve.resilience.shared import NotShared, SharedStore

_DAY_S = 86_400
_NANO = 10**9
_AFTER_S = 0.01
# The budget of all tenants together; no tenant has this name, which is none of a key.
ALL = "*"

# KEYS: spent so far, for each budget. ARGV: seconds to keep, the amount, each budget's most (-1: no end), then what
# was spent on each while Redis was away. Answers the index of the budget that is too small, or 0; then what each has
# spent. As text: Lua's numbers in an answer are cut to integers of 53 bits.
_RESERVE = """
local keep, amount = tonumber(ARGV[1]), tonumber(ARGV[2])
local short = 0
for i, key in ipairs(KEYS) do
  local most = tonumber(ARGV[2 + i])
  local spent = redis.call('incrby', key, ARGV[2 + #KEYS + i])
  redis.call('expire', key, keep)
  if short == 0 and most >= 0 and amount > 0 and spent + amount > most then short = i end
end
local answer = {tostring(short)}
for i, key in ipairs(KEYS) do
  if short == 0 then redis.call('incrby', key, ARGV[2]) end
  answer[i + 1] = redis.call('get', key)
end
return answer
"""


@dataclass(frozen=True, slots=True)
class Reservation:
    """Money set aside.

    Attributes:
        day: since 1970-01-01 UTC, whose budget it is.
        nano: billionths of a dollar.
        shared: it was taken from Redis, and goes back there.
    """

    tenant: str
    day: int
    nano: int
    shared: bool

    @property
    def usd(self) -> float:
        """US dollars."""
        return self.nano / _NANO


class Budget:
    """The budgets of all tenants.

    Args:
        most_usd: a day's money of all together, None for no bound.
        tenants_usd: of tenants, by name; the entry `default` is of each other one.
        clock: seconds since 1970, as `time.time`.
    """

    def __init__(
        self,
        most_usd: float | None,
        tenants_usd: Mapping[str, float | None],
        shared: SharedStore | None,
        replicas: int,
        recorder: Recorder,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._most_usd = most_usd
        self._tenants_usd = tenants_usd
        self._shared = shared
        self._script = shared.script(_RESERVE) if shared else None
        self._replicas = replicas
        self._recorder = recorder
        self._clock = clock
        self._day = 0
        # By each budget: what all replicas had spent when Redis last said so, and what it has not been told.
        self._known: dict[str, int] = {}
        self._spent: dict[str, int] = {}
        # Names of budgets, which are tenants', and the next midnight.
        self._told: set[str] = set()
        self._midnight: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Tells what there is, on the event loop: the parts of replicas that nobody asks anything count as well."""
        if self._shared is None:
            self._tell(ALL, *(name for name in self._tenants_usd if name != "default"))

    async def reserve(self, tenant: str, usd: float) -> Reservation:
        """Sets money aside, in the tenant's budget and in that of all, or in neither.

        Raises:
            BudgetExceeded: one of them is too small; it is full again at the end of the UTC day. That of all tenants is
                no client's doing: `service_budget_exceeded`.
        """
        now = self._clock()
        day, nano = int(now // _DAY_S), _nano(usd)
        short, shared = await self._add(tenant, day, nano)
        if short is not None:
            whose = "the budget of all tenants" if short == ALL else f"the budget of {tenant}"
            raise BudgetExceeded(
                f"The call may cost ${usd:.4g}, more than {whose} has left for today (UTC).",
                code="service_budget_exceeded" if short == ALL else None,
                retry_after_s=(day + 1) * _DAY_S - now,
            )
        return Reservation(tenant, day, nano, shared)

    async def settle(self, reservation: Reservation, usd: float) -> None:
        """Puts what was spent in the place of what was reserved."""
        difference = _nano(usd) - reservation.nano
        if difference:
            await self._add(reservation.tenant, reservation.day, difference, reservation.shared, enforce=False)

    async def _add(
        self, tenant: str, day: int, nano: int, try_shared: bool = True, *, enforce: bool = True
    ) -> tuple[str | None, bool]:
        """The name of the budget that is too small, if one is, and whether Redis said so."""
        names = (tenant, ALL)
        most = [self._most(name) for name in names]
        if most == [None, None]:
            return None, False
        if day > self._day:
            self._begin(day)
        if day < self._day:
            return None, False  # settled after midnight: that day's budget is over
        if try_shared and self._shared is not None:
            try:
                return await self._add_there(names, most, nano, enforce), True
            except NotShared:
                pass
        return self._add_here(names, most, nano, enforce), False

    async def _add_there(self, names: tuple[str, ...], most: list[int | None], nano: int, enforce: bool) -> str | None:
        shared, script, day = self._shared, self._script, self._day
        assert shared is not None and script is not None
        keys = [shared.key("usd", str(day), name) for name in names]
        limits = [-1 if m is None or not enforce else m for m in most]
        owed = [self._spent.pop(name, 0) for name in names]
        try:
            short, *spent = await shared.ask(lambda _: script(keys=keys, args=[2 * _DAY_S, nano, *limits, *owed]))
        except BaseException:
            if day == self._day:
                for name, amount in zip(names, owed, strict=True):
                    self._spent[name] = self._spent.get(name, 0) + amount
            raise
        if day == self._day:
            self._known.update(zip(names, map(int, spent), strict=True))
            self._tell(*names)
        return names[int(short) - 1] if int(short) else None

    def _add_here(self, names: tuple[str, ...], most: list[int | None], nano: int, enforce: bool) -> str | None:
        own = [
            None if m is None else max(0, m - self._known.get(name, 0)) // self._replicas
            for name, m in zip(names, most, strict=True)
        ]
        if enforce and nano > 0:
            for name, limit in zip(names, own, strict=True):
                if limit is not None and not fits(self._spent.get(name, 0), nano, limit):
                    return name
        for name in names:
            self._spent[name] = self._spent.get(name, 0) + nano
        self._tell(*names)
        return None

    def _most(self, name: str) -> int | None:
        usd = self._most_usd if name == ALL else self._tenants_usd.get(name, self._tenants_usd.get("default"))
        return None if usd is None else _nano(usd)

    def _begin(self, day: int) -> None:
        """A new day: nothing of it is spent."""
        self._day, self._known, self._spent = day, {}, {}

    def _tell(self, *names: str) -> None:
        """What is left of each budget that has an end: as Redis counts it, or of the part of this replica."""
        parts = self._replicas if self._shared is None else 1
        for name in names:
            if (most := self._most(name)) is None:
                continue
            self._told.add(name)
            left = most // parts - self._known.get(name, 0) - self._spent.get(name, 0)
            counted: Counted = "replica" if self._shared is None else "shared"
            self._recorder.budget_left(name, left / _NANO, most / parts / _NANO, counted)
        if self._midnight is None and self._told:
            wait = _DAY_S - self._clock() % _DAY_S
            self._midnight = asyncio.get_running_loop().call_later(wait + _AFTER_S, self._at_midnight)

    def _at_midnight(self) -> None:
        """The day's money is there again, and nobody may spend any of it for hours."""
        self._midnight = None
        if (day := int(self._clock() // _DAY_S)) > self._day:
            self._begin(day)
        self._tell(*self._told)


def fits(spent: float, amount: float, most: float) -> bool:
    """Whether an amount may be spent beside what has been; the simulator compiles it, so it is of plain numbers."""
    return spent + amount <= most


def _nano(usd: float) -> int:
    return round(usd * _NANO)
