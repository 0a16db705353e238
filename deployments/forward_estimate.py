"""How long a forward pass of a given cost will take, learnt from those that ran."""

from __future__ import annotations


class ForwardEstimate:
    """Online fit of `seconds = fixed + slope * cost`, kept optimistic.

    A batcher refuses work that the estimate says cannot end in time, so a wrong high estimate would refuse work that
    could be done, and, since refused work is never measured, could do so for ever. Hence two rules: one slow pass
    counts little (exponential weights on every pass), and each refusal on the estimate's word `relax`es it.

    The fit is least squares with exponential forgetting over the sufficient statistics (weight, cost, cost^2,
    seconds, cost*seconds); with no spread in cost it falls back to seconds in proportion to the mean.
    """

    _FORGET = 0.9
    _RELAX = 0.8
    # A prediction this share of the fit counts as "cannot end in time": below 1, because the fit is a mean.
    _OPTIMISM = 0.8

    def __init__(self) -> None:
        self._weight = self._cost = self._cost2 = self._seconds = self._cost_seconds = 0.0

    def observe(self, cost: float, seconds: float) -> None:
        """Takes in one finished pass."""
        keep = self._FORGET
        self._weight = keep * self._weight + 1.0
        self._cost = keep * self._cost + cost
        self._cost2 = keep * self._cost2 + cost * cost
        self._seconds = keep * self._seconds + seconds
        self._cost_seconds = keep * self._cost_seconds + cost * seconds

    def relax(self) -> None:
        """Lowers every prediction; called when work was refused because of one."""
        self._seconds *= self._RELAX
        self._cost_seconds *= self._RELAX

    def seconds(self, cost: float) -> float:
        """Predicted seconds for a pass of `cost`; 0 before the first observation."""
        if not self._weight:
            return 0.0
        mean_cost, mean_seconds = self._cost / self._weight, self._seconds / self._weight
        spread = self._cost2 / self._weight - mean_cost**2
        slope = 0.0
        if spread > 1e-9 * mean_cost**2:
            slope = max(0.0, (self._cost_seconds / self._weight - mean_cost * mean_seconds) / spread)
        return self._OPTIMISM * max(0.0, mean_seconds + slope * (cost - mean_cost))
