"""What creeps over a long run: memory of the cluster's processes, and latency."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import theilslopes

from benchmarks.loadtest.columns import Columns
from benchmarks.loadtest.record import LoadRecord
from benchmarks.loadtest.settings import Settings
from benchmarks.traffic.traces import Float64

_BINS = 40
# Parts of a series, of which a slope compares the means.
_PARTS = 8
_LEAST_IN_A_BIN = 10
_CONFIDENCE = 0.95
_HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Slope:
    """How something changes.

    Attributes:
        name: of what, with its unit.
        level: its median over the run.
        per_hour: change in an hour: median of the slopes between all pairs of the means of eight equal parts of the
            series (Theil 1950, Sen 1968), which one part that is out of line does not move.
        low, high: confidence interval of `per_hour` at 95 % (Sen 1968). It takes its points to be independent, which
            neighbouring samples are not and means of parts are, once what makes neighbours alike has passed within a
            part (two and a half minutes of a soak).
    """

    name: str
    level: float
    per_hour: float
    low: float
    high: float

    @property
    def flat(self) -> bool:
        """Whether no change at all is within the interval."""
        return self.low <= 0 <= self.high


def slope(name: str, times_s: Float64, values: Float64) -> Slope | None:
    """The slope of a series; None for fewer points than parts."""
    if len(times_s) < _PARTS:
        return None
    times, means = ([part.mean() for part in np.array_split(series, _PARTS)] for series in (times_s, values))
    per_s, _, low, high = theilslopes(means, times, alpha=_CONFIDENCE)
    hour = _HOUR_S
    return Slope(name, float(np.median(values)), float(per_s) * hour, float(low) * hour, float(high) * hour)


def latency_slopes(columns: Columns, settings: Settings) -> list[Slope]:
    """Of the median and of the 99th percentile, in milliseconds, over equal parts of the measured window."""
    inside = (columns.due_s >= settings.warm_up_s) & (columns.due_s < settings.end_s) & columns.ok
    due, latency = columns.due_s[inside] - settings.warm_up_s, columns.latency_s[inside]
    bins = np.minimum((due * _BINS / settings.seconds).astype(int), _BINS - 1)
    full = [one for one in range(_BINS) if (bins == one).sum() >= _LEAST_IN_A_BIN]
    middles = (np.array(full) + 0.5) * settings.seconds / _BINS
    found = []
    for name, q in (("latency P50, ms", 0.5), ("latency P99, ms", 0.99)):
        values = np.array([1000 * np.quantile(latency[bins == one], q, method="inverted_cdf") for one in full])
        found.append(slope(name, middles, values))
    return [one for one in found if one is not None]


def memory_slopes(memory: Mapping[str, Any], settings: Settings) -> list[Slope]:
    """Of each process's memory and of their sum, in MiB; see `memory.MemoryWatch.series`."""
    times = np.array(memory.get("times_s", ()))
    inside = (times >= settings.warm_up_s) & (times <= settings.end_s)
    found = [
        slope(f"memory of {name}, MiB", times[inside], np.array(values)[inside] / 2**20)
        for name, values in memory.get("bytes", {}).items()
    ]
    return [one for one in found if one is not None]


def slopes(record: LoadRecord) -> list[Slope]:
    """Of latency, and of memory where the cluster ran on this machine."""
    memory = record.extra.get("memory", {})
    return [*latency_slopes(record.columns(), record.settings), *memory_slopes(memory, record.settings)]
