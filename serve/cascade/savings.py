"""What a cascade saves: money that its last step would have cost and did not."""

from __future__ import annotations

from collections.abc import Sequence

from serve.cascade.types import TraceEntry

# Weight of the newest call in the usual price, which so follows the last forty calls or so.
_NEWEST = 0.05


class Savings:
    """The rule: an answer that a step before the last has accepted saves what a call of the last step usually costs.

    The usual cost is the exponentially weighted mean of the calls that this cascade made of its last step, cached
    answers left out. Before the first of them nothing is claimed. A model of ours costs no money for a call
    (`serve.calls.Usage`), so a cascade that ends with one saves calls, which its escalations count, and no money.

    Args:
        last: name of the last step.
    """

    def __init__(self, last: str) -> None:
        self._last = last
        self._usual_usd: float | None = None

    @property
    def usual_usd(self) -> float:
        """US dollars of a call of the last step; 0 before the first."""
        return self._usual_usd or 0.0

    def ended(self, trace: Sequence[TraceEntry]) -> float:
        """Takes in a request that ended; US dollars that it saved."""
        reached = False
        accepted = any(entry.result == "accepted" for entry in trace)
        for entry in trace:
            if entry.step != self._last:
                continue
            reached = True
            if entry.result in ("accepted", "went_on") and not entry.cached:
                self._learn(entry.usage.usd)
        return self.usual_usd if accepted and not reached else 0.0

    def _learn(self, usd: float) -> None:
        before = self._usual_usd
        self._usual_usd = usd if before is None else before + _NEWEST * (usd - before)
