"""How long a forward pass of a given cost will take, learnt from those that ran."""

from __future__ import annotations

from deployments.batch_policy import NO_PASSES, Line, Sums, line, observed, predicted_s, relaxed


class ForwardEstimate:
    """Online fit of `seconds = fixed + slope * cost`, kept optimistic.

    A batcher refuses work that the estimate says cannot end in time, so a wrong high estimate would refuse work that
    could be done, and, since refused work is never measured, could do so for ever. Hence two rules: one slow pass
    counts little (exponential weights on every pass), and each refusal on the estimate's word `relax`es it.

    The fit is least squares with exponential forgetting over its sufficient statistics (deployments/batch_policy.py);
    with no spread in cost it falls back to the mean.
    """

    __slots__ = ("_sums",)

    def __init__(self) -> None:
        self._sums: Sums = NO_PASSES

    def observe(self, cost: float, seconds: float) -> None:
        """Takes in one finished pass."""
        self._sums = observed(self._sums, cost, seconds)

    def relax(self) -> None:
        """Lowers every prediction; called when work was refused because of one."""
        self._sums = relaxed(self._sums)

    def seconds(self, cost: float) -> float:
        """Predicted seconds for a pass of `cost`; 0 before the first observation."""
        return predicted_s(line(self._sums), cost)

    def line(self) -> Line:
        """The fit, for many predictions at once."""
        return line(self._sums)
