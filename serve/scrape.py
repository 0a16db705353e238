"""What two scrapes of a metrics endpoint say together: rates of counters, levels of gauges, quantiles of histograms.

The figures are those of the dashboards, found as Prometheus finds them, so `argus top` and Grafana agree. All of it
is a function of the two texts and the seconds between them. Sums of histograms are not read: Ray's agent (2.60) makes
them up from the middles of buckets; counts are exact.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

PREFIX: Final = "ray_"

# A quote within a label's value is escaped, so nothing of this form stands in one.
_OF_ALL: Final = re.compile(r'(?<=[{,])(?:SessionName|Version|Component)="(?:[^"\\]|\\.)*",?')

# Scrapes that are kept of a window.
_KEPT: Final = 30

Labels = Mapping[str, str]
Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Scrape:
    """One answer of a metrics endpoint.

    Attributes:
        at_s: when its answer had been read, on any clock that only goes forward.
        samples: by name without Ray's prefix: the label set and the value of each series. Labels that Ray gives to all
            series alike (`SessionName`, `Version`, `Component`) are left out.
    """

    at_s: float
    samples: Mapping[str, Mapping[frozenset[tuple[str, str]], float]]

    @staticmethod
    def parse(text: str, at_s: float, wanted: Iterable[str]) -> Scrape:
        """Reads the exposition format.

        Args:
            wanted: beginnings of the names (without Ray's prefix) that are kept; the rest is skipped unread, since Ray
                exports a hundred times more. What is no finite number says nothing, and is left out.

        Raises:
            ValueError: the text is not in that format.
        """
        starts = tuple(PREFIX + name for name in wanted)
        lines = [line for line in text.splitlines() if line and not line.startswith("#")]
        # With the first line, wanted or not: of a page that is no metrics at all nothing would be wanted.
        kept = "\n".join(line for place, line in enumerate(lines) if not place or line.startswith(starts)) + "\n"
        kept = _OF_ALL.sub("", kept)  # half of what is to be read
        samples: dict[str, dict[frozenset[tuple[str, str]], float]] = {}
        for family in text_string_to_metric_families(kept):
            for sample in family.samples:
                if not sample.name.startswith(starts) or not math.isfinite(sample.value):
                    continue
                series = samples.setdefault(sample.name.removeprefix(PREFIX), {})
                series[frozenset(sample.labels.items())] = sample.value
        return Scrape(at_s, samples)


class Window:
    """The scrapes that a window needs: the newest, and few enough of the earlier ones that memory has a bound.

    Args:
        seconds: that figures shall be over.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._kept: deque[Scrape] = deque()
        self._newest: Scrape | None = None

    def add(self, scrape: Scrape) -> None:
        """Takes the next scrape. Of the earlier ones at most one is kept for each thirtieth of the window."""
        if not self._kept or scrape.at_s - self._kept[-1].at_s >= self._seconds / _KEPT:
            self._kept.append(scrape)
        self._newest = scrape
        while len(self._kept) > 1 and self._kept[1].at_s <= scrape.at_s - self._seconds:
            self._kept.popleft()

    @property
    def newest(self) -> Scrape | None:
        """The last one that came."""
        return self._newest

    def delta(self) -> Delta | None:
        """The newest against one from the window's beginning, or as early as there is; None before the first."""
        if self._newest is None:
            return None
        return Delta(self._kept[0] if self._kept[0] is not self._newest else None, self._newest)

    def __len__(self) -> int:
        return len(self._kept)


class Delta:
    """What happened between two scrapes.

    Args:
        before: the earlier one; None when there is none, so that nothing is known of rates.
    """

    def __init__(self, before: Scrape | None, now: Scrape) -> None:
        self._before = before
        self._now = now

    @property
    def seconds(self) -> float:
        """Between the two; 0 when there is only one."""
        return 0.0 if self._before is None else self._now.at_s - self._before.at_s

    def levels(self, name: str, *by: str, merge: Callable[[float, float], float] = max, **of: str) -> dict[Key, float]:
        """A gauge by labels.

        Args:
            by: labels whose values make the keys.
            merge: what becomes of several replicas' values: the largest, or `sum_of`.
            of: labels with the values that a series must have.
        """
        found: dict[Key, float] = {}
        for labels, value in self._series(self._now, name, of):
            key = tuple(labels.get(label, "") for label in by)
            found[key] = merge(found[key], value) if key in found else value
        return found

    def increases(self, name: str, *by: str, **of: str) -> dict[Key, float]:
        """How much a counter grew, by labels. One that is smaller than before began anew, at zero."""
        found: dict[Key, float] = {}
        earlier = {} if self._before is None else self._before.samples.get(name, {})
        if self._before is None:
            return found
        for labels, value in self._series(self._now, name, of):
            before = earlier.get(frozenset(labels.items()), 0.0)
            key = tuple(labels.get(label, "") for label in by)
            found[key] = found.get(key, 0.0) + (value - before if value >= before else value)
        return found

    def rates(self, name: str, *by: str, **of: str) -> dict[Key, float]:
        """The same a second."""
        return {key: grown / self.seconds for key, grown in self.increases(name, *by, **of).items()}

    def quantiles(self, share: float, histogram: str, *by: str, **of: str) -> dict[Key, float]:
        """A quantile of what a histogram took in, by labels; without those that took in nothing."""
        grouped: dict[Key, dict[float, float]] = {}
        for (*key, le), grown in self.increases(f"{histogram}_bucket", *by, "le", **of).items():
            grouped.setdefault(tuple(key), {})[float(le)] = grown
        found = {key: quantile(share, buckets) for key, buckets in grouped.items()}
        return {key: value for key, value in found.items() if not math.isnan(value)}

    @staticmethod
    def _series(scrape: Scrape, name: str, of: Labels) -> Iterable[tuple[dict[str, str], float]]:
        for pairs, value in scrape.samples.get(name, {}).items():
            labels = dict(pairs)
            if all(labels.get(label) == wanted for label, wanted in of.items()):
                yield labels, value


def sum_of(one: float, other: float) -> float:
    """For `Delta.levels`: replicas' values are added."""
    return one + other


def quantile(share: float, buckets: Mapping[float, float]) -> float:
    """Prometheus' `histogram_quantile` of one histogram.

    Args:
        share: in (0, 1).
        buckets: upper bound -> how many were at most that; the last bound is infinite.

    Returns:
        The value below which `share` of all lie, taken to be spread evenly within a bucket whose lower bound is the one
        before (0 for the first); the last finite bound when it lies beyond; NaN when there is none.
    """
    bounds = sorted(buckets)
    if not bounds or not math.isinf(bounds[-1]) or buckets[bounds[-1]] <= 0:
        return math.nan
    rank = share * buckets[bounds[-1]]
    below_bound, below = 0.0, 0.0
    for bound in bounds:
        if buckets[bound] >= rank:
            if math.isinf(bound):
                return below_bound
            inside = buckets[bound] - below
            return below_bound + (bound - below_bound) * ((rank - below) / inside if inside > 0 else 1.0)
        below_bound, below = bound, buckets[bound]
    return below_bound
