"""From totals that are told now and then to a rate, its trend, and what is to be expected.

The trend is that of a straight line through the last `window_s`, less its standard error, so that chance is not taken
for a rise, or that of the last third of it, less two, which sees a steep rise sooner. It is never taken below 0, since
the delay of scaling down looks after falling load. It is followed with damping (Gardner and McKenzie 1985, "Forecasting
trends in time series"): rises end, and the further ahead, the surer.
Nothing expects more than twice what has been seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# Counts are kept in slots of so many seconds.
SLOT_S = 2.0
# The present rate is the mean over the last so many seconds.
LEVEL_S = 10.0
# Slots that a trend needs.
_FEWEST = 6
# Forecasts are at most so many times the present rate.
MOST_GROWTH = 2.0


@dataclass(frozen=True, slots=True)
class Series:
    """Counts of one kind over the last time.

    Attributes:
        first: number of the first slot; a slot begins at its number times `SLOT_S`.
        counts: one a slot.
    """

    first: int = 0
    counts: tuple[float, ...] = ()

    def added(self, count: float, since: float, until: float, keep: int) -> Series:
        """With `count` more between two times, evenly; the last `keep` slots of all.

        What is older than the slots that are kept is forgotten.
        """
        if until <= since:
            since = until - 1e-3
        low, high = math.floor(since / SLOT_S), math.floor(until / SLOT_S)
        first = max(high - keep + 1, min(self.first, low) if self.counts else low)
        size = max(high, self.first + len(self.counts) - 1) - first + 1
        counts = [0.0] * size
        for place, value in enumerate(self.counts):
            if 0 <= (at := self.first + place - first) < size:
                counts[at] = value
        for slot in range(max(low, first), high + 1):
            share = min(until, (slot + 1) * SLOT_S) - max(since, slot * SLOT_S)
            counts[slot - first] += count * max(0.0, share) / (until - since)
        return Series(first + max(0, size - keep), tuple(counts[max(0, size - keep) :]))


@dataclass(frozen=True, slots=True)
class Forecast:
    """A rate, in 1/s.

    Attributes:
        level: at present.
        slope: its rise a second, as far as it is sure; not below 0.
    """

    level: float = 0.0
    slope: float = 0.0

    def after(self, seconds: float, damping_s: float) -> float:
        """The rate to expect in so many seconds.

        Args:
            damping_s: time constant with which a trend dies away.
        """
        ahead = damping_s * -math.expm1(-max(0.0, seconds) / damping_s)
        return min(MOST_GROWTH * self.level, self.level + self.slope * ahead)


def forecast(series: Series, since: float, until: float, window_s: float) -> Forecast:
    """The rate at `until`, and its trend.

    Args:
        since: from when on anything was counted.
        until: up to when all is counted.
        window_s: over how much time the trend is taken.
    """
    begin = math.ceil(max(since, until - window_s) / SLOT_S)
    end = math.floor(until / SLOT_S)
    counts = _between(series, begin, end)
    if not counts:
        return Forecast()
    recent = counts[-max(1, round(LEVEL_S / SLOT_S)) :]
    level = sum(recent) / (len(recent) * SLOT_S)
    latest = counts[-math.ceil(window_s / SLOT_S / 3) :]
    return Forecast(level, max(_sure_slope(counts, 1.0), _sure_slope(latest, 2.0)))


def _between(series: Series, begin: int, end: int) -> list[float]:
    """Counts of the slots from `begin` to before `end`; nothing was counted where there is none."""
    last = series.first + len(series.counts)
    return [series.counts[slot - series.first] if series.first <= slot < last else 0.0 for slot in range(begin, end)]


def _sure_slope(counts: Sequence[float], errors: float) -> float:
    """Least squares over the slots, in 1/s a second, less so many standard errors where counts are Poisson's."""
    size = len(counts)
    if size < _FEWEST:
        return 0.0
    middle = (size - 1) / 2
    spread = sum((place - middle) ** 2 for place in range(size))
    rise = sum((place - middle) * count for place, count in enumerate(counts)) / spread
    # Each count's variance is its mean.
    error = math.sqrt(sum((place - middle) ** 2 * count for place, count in enumerate(counts))) / spread
    return max(0.0, rise - errors * error) / SLOT_S**2
