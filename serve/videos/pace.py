"""Whether work can end in time, by how long such work took lately."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

# Weight of the latest time in the running mean, and how much a refusal takes off: a mean that nothing renews any more
# must not refuse for ever.
_NEW, _RELAXED = 0.3, 0.95


@dataclass(slots=True)
class Pace:
    """Running means of the seconds that one chunk takes, by kind of work."""

    _seconds: dict[str, float] = field(default_factory=dict)

    def took(self, kind: str, seconds: float) -> None:
        """A chunk has been finished."""
        before = self._seconds.get(kind)
        self._seconds[kind] = seconds if before is None else before + _NEW * (seconds - before)

    def needs(self, kind: str, chunks: int, concurrency: int) -> float | None:
        """Seconds that so many chunks take, so many at a time; None before there has been one."""
        usual = self._seconds.get(kind)
        return None if usual is None else usual * math.ceil(chunks / concurrency)

    def refused(self, kind: str) -> None:
        """Work was refused because of `needs`."""
        self._seconds[kind] *= _RELAXED
