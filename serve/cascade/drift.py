"""Whether accepted answers have become worse than promised: a sequential test on shadowed requests.

A share of accepted requests also runs the next step; each gives one bit, whether the two disagree. The test is a bet
against "errors are no more frequent than the limit" (Waudby-Smith and Ramdas 2024, "Estimating means of bounded random
variables by betting"): wealth that starts at 1 and cannot grow on average while that is true, so that it ever reaches
1 / alpha with probability at most alpha (Ville's inequality), however long the stream is. It may be looked at after
every bit, and errors need not be independent as long as their rate, given what came before, keeps to the limit.

A bet that began long ago has lost most of its money in the good times. So a part of the money is kept back and bets
from each later bit on: the alarm then comes soon after a change, whenever that is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

#: Error rates that are bet on, as multiples of the limit.
_WORSE = (1.25, 1.5, 2.0, 3.0, 5.0, 10.0)
_MOST_WEALTH = 1e100


@dataclass(frozen=True, slots=True)
class DriftState:
    """All that a test has to remember; plain numbers, so it goes through JSON.

    Attributes:
        wealth: of the bets on each error rate.
        alarmed: stays so until the test begins anew.
    """

    seen: int
    errors: int
    wealth: tuple[float, ...]
    alarmed: bool

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def of(cls, record: dict[str, Any]) -> DriftState:
        """From such a record."""
        return cls(**{**record, "wealth": tuple(record["wealth"])})


class DriftTest:
    """Raises an alarm when accepted answers are wrong more often than `limit`.

    Args:
        limit: error rate that is still fine, in (0, 1): 1 - the promised agreement.
        alpha: most probability of an alarm, ever, while the rate keeps to the limit.
        state: to go on from.

    Raises:
        ValueError: limit or alpha outside (0, 1); a state of another test.
    """

    def __init__(self, limit: float, alpha: float = 0.01, state: DriftState | None = None) -> None:
        for name, value in (("limit", limit), ("alpha", alpha)):
            if not 0 < value < 1:
                raise ValueError(f"{name} is {value}; it must lie between 0 and 1")
        self._limit, self._alpha = limit, alpha
        # A bet on the rate q multiplies wealth by the likelihood ratio of q and the limit.
        rates = sorted({min(limit * times, (1.0 + limit) / 2) for times in _WORSE})
        self._if_error = [rate / limit for rate in rates]
        self._if_right = [(1.0 - rate) / (1.0 - limit) for rate in rates]
        if state is not None and len(state.wealth) != len(rates):
            raise ValueError(f"a state with {len(state.wealth)} bets is of another test, which has {len(rates)}")
        self._state = state or DriftState(0, 0, (0.0,) * len(rates), False)

    @property
    def state(self) -> DriftState:
        """For another process to go on from."""
        return self._state

    @property
    def alarmed(self) -> bool:
        """Whether the alarm has been raised."""
        return self._state.alarmed

    @property
    def evidence(self) -> float:
        """Wealth: how many times more the bits speak for a drift than against; an alarm at 1 / alpha."""
        return _mean(self._state.wealth) + _kept(self._state.seen)

    @property
    def error_rate(self) -> float:
        """Of all bits so far; 0 before the first."""
        return self._state.errors / self._state.seen if self._state.seen else 0.0

    def update(self, error: bool) -> bool:
        """Takes one shadowed request's bit; tells whether the alarm is raised, now or before."""
        before = self._state
        fresh = _kept(before.seen) - _kept(before.seen + 1)
        factors = self._if_error if error else self._if_right
        wealth = tuple(
            min(_MOST_WEALTH, (old + fresh) * factor) for old, factor in zip(before.wealth, factors, strict=True)
        )
        seen = before.seen + 1
        alarmed = before.alarmed or _mean(wealth) + _kept(seen) >= 1.0 / self._alpha
        self._state = DriftState(seen, before.errors + int(error), wealth, alarmed)
        return alarmed

    def restart(self) -> None:
        """Begins anew, as after another calibration."""
        self._state = DriftState(0, 0, (0.0,) * len(self._if_error), False)


def _kept(seen: int) -> float:
    """Money kept back after so many bits: all of it at first, and falling so slowly that late bets have enough."""
    return 1.0 / (1.0 + math.log1p(seen))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
