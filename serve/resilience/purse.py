"""The money of one call: set aside for each of its attempts, and counted once they have ended."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from serve.resilience.budget import Budget, Reservation


class Stake:
    """The money of one attempt."""

    def __init__(self, ended: Callable[[float | None], None]) -> None:
        self._ended: Callable[[float | None], None] | None = ended

    def end(self, usd: float | None) -> None:
        """The attempt ended and cost so much; None when nobody knows: it was given up, and may be charged all the same.

        What is not known is counted at its estimate, so that a budget errs on the side of its owner. Only the first
        call counts.
        """
        if self._ended is not None:
            self._ended(usd)
            self._ended = None


class Purse:
    """What one call may spend.

    Args:
        budget: None for a call that costs nothing.
        estimate_usd: most that one attempt costs.
    """

    def __init__(self, budget: Budget | None, tenant: str, estimate_usd: float) -> None:
        self._budget = budget
        self._tenant = tenant
        self._estimate = estimate_usd
        self._reservations: list[Reservation] = []
        self._reserved = self._spent = 0.0
        self._open = 0

    @property
    def spent(self) -> float:
        """US dollars, so far."""
        return self._spent

    @asynccontextmanager
    async def stake(self) -> AsyncIterator[Stake]:
        """Money for one attempt, unless what was set aside for an earlier one is still there.

        Raises:
            BudgetExceeded: there is none.
        """
        if self._budget is not None:
            missing = self._spent + (self._open + 1) * self._estimate - self._reserved
            if missing > 0 or not self._reservations:
                self._reservations.append(await self._budget.reserve(self._tenant, max(0.0, missing)))
                self._reserved += max(0.0, missing)
        self._open += 1
        stake = Stake(self._ended)
        try:
            yield stake
        finally:
            stake.end(0.0)

    def _ended(self, usd: float | None) -> None:
        self._open -= 1
        self._spent += self._estimate if usd is None else usd

    async def settle(self) -> None:
        """Puts what was spent in the place of what was set aside."""
        left = self._spent
        budget, reservations = self._budget, self._reservations
        if budget is None:
            return
        for number, reservation in enumerate(reservations, 1):
            amount = left if number == len(reservations) else min(left, reservation.usd)
            left -= amount
            await budget.settle(reservation, amount)


@asynccontextmanager
async def purse(budget: Budget | None, tenant: str, estimate_usd: float) -> AsyncIterator[Purse]:
    """A purse that is settled at the end of the block, however that comes."""
    opened = Purse(budget, tenant, estimate_usd)
    try:
        yield opened
    finally:
        await opened.settle()
