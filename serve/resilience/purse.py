"""The money of one call: set aside for each of its attempts, and counted once they have ended."""

from __future__ import annotations

from serve.resilience.budget import Budget, Reservation


class Stake:
    """The money of one attempt; a `with` block ends it as free of charge, unless it has ended before."""

    __slots__ = ("_purse",)

    def __init__(self, purse: Purse) -> None:
        self._purse: Purse | None = purse

    def end(self, usd: float | None) -> None:
        """The attempt ended and cost so much; None when nobody knows: it was given up, and may be charged all the same.

        What is not known is counted at its estimate, so that a budget errs on the side of its owner. Only the first
        call counts.
        """
        if self._purse is not None:
            self._purse.ended(usd)
            self._purse = None

    def __enter__(self) -> Stake:
        return self

    def __exit__(self, *failure: object) -> None:
        self.end(0.0)


class Purse:
    """What one call may spend; whoever opens it settles it at the end, however that comes.

    Args:
        budget: None for a call that costs nothing.
        estimate_usd: most that one attempt costs.
    """

    __slots__ = ("_budget", "_estimate", "_open", "_reservations", "_reserved", "_spent", "_tenant")

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

    async def stake(self) -> Stake:
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
        return Stake(self)

    def ended(self, usd: float | None) -> None:
        """For `Stake.end`."""
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
