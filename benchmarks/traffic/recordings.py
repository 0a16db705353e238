"""How many requests of a recording come when: what a replay expects, from files that are read once."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from benchmarks.traffic.traces import Float64, Trace, load_trace


@lru_cache(maxsize=4)
def loaded(path: Path) -> Trace:
    """A recording; see `load_trace`."""
    return load_trace(path)


@lru_cache(maxsize=2)
def window(path: Path, seconds: float) -> Trace:
    """The requests of a run at the recording's own rate; see `Trace.window`."""
    return loaded(path).window(seconds)


def rate_at(path: Path, times: Float64, seconds: float) -> Float64:
    """Requests a second in the second around each moment; at the run's ends, in its first and last second."""
    arrived, lasts = window(path, seconds).times_s, _counted_s(seconds)
    begins = np.clip(times - lasts / 2, 0.0, seconds - lasts)
    return (np.searchsorted(arrived, begins + lasts) - np.searchsorted(arrived, begins)) / lasts


@lru_cache(maxsize=16)
def peak_rate(path: Path, seconds: float) -> float:
    """The most that `rate_at` gives: the busiest second begins with a request."""
    arrived, lasts = window(path, seconds).times_s, _counted_s(seconds)
    return int((np.searchsorted(arrived, arrived + lasts) - np.arange(len(arrived))).max()) / lasts


def _counted_s(seconds: float) -> float:
    return min(1.0, seconds)
