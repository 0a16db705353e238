"""How long views wait where they are drawn one by one."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from deployments.batching import BatchObserver


class Turns:
    """A `BatchObserver` that passes on what it sees and knows by how much views wait longer than for a round of others.

    `Batcher.standing_wait_s` takes an item for late that waited longer than one pass. Where a pass is one view, that is
    every view of which two others came before; but several viewers that take turns are no overload. Here it is late
    when more went before it than may share a batch elsewhere.

    Args:
        most: views in a round.
    """

    def __init__(self, observer: BatchObserver, most: int) -> None:
        self._observer = observer
        self._passes: deque[float] = deque(maxlen=most)
        self.standing_wait_s = 0.0

    def batch_ran(self, *, items: int, cost: float, forward_s: float, waits_s: Sequence[float]) -> None:
        """See `BatchObserver`."""
        full = len(self._passes) == self._passes.maxlen
        late = sum(waits_s) / len(waits_s) - sum(self._passes)
        self.standing_wait_s = max(0.0, late) if full else 0.0
        self._passes.append(forward_s)
        self._observer.batch_ran(items=items, cost=cost, forward_s=forward_s, waits_s=waits_s)

    def dropped(self, reason: str) -> None:
        """See `BatchObserver`."""
        self._observer.dropped(reason)

    def retried_alone(self, items: int) -> None:
        """See `BatchObserver`."""
        self._observer.retried_alone(items)
