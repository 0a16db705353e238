"""Renewal processes: gaps are drawn and summed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.traffic.traces import Float64

# Gaps are drawn and summed in pieces that double from the first size to the last. How many are drawn must not depend on
# the run's length, or the sums would be rounded differently in a longer run.
_FIRST_PIECE, _LAST_PIECE = 1 << 8, 1 << 16


def poisson_times(rate_per_s: float, seconds: float, draw: np.random.Generator) -> Float64:
    """Times of a Poisson process in [0, seconds)."""
    scale = 1 / rate_per_s
    return renewal_times(draw.exponential(scale), lambda count: draw.exponential(scale, count), seconds)


def renewal_times(first: float, gaps: Callable[[int], Float64], seconds: float) -> Float64:
    """Times of a renewal process in [0, seconds).

    Args:
        first: time of the first.
        gaps: draws as many gaps as it is asked for.
    """
    pieces = [np.array([first])]
    last, count = first, _FIRST_PIECE
    while last < seconds:
        piece = np.cumsum(gaps(count)) + last
        pieces.append(piece)
        last, count = float(piece[-1]), min(2 * count, _LAST_PIECE)
    times = np.concatenate(pieces)
    before: Float64 = times[: int(np.searchsorted(times, seconds, side="left"))]
    return before
