"""Random numbers that belong to a request and not to a moment, and durations drawn with them.

A number is a hash of (seed, what it is for, which one): the request that is drawn in one scenario is the same in
another, so two scenarios differ by what was changed and not by luck (common random numbers, Law 2015, "Simulation
Modeling and Analysis", 11.2).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.capacity.profiles import PROBABILITIES, Distribution
from benchmarks.capacity.simulator.memory import tables
from benchmarks.capacity.simulator.parts import part

Float64 = npt.NDArray[np.float64]

# Cells of a table of durations, evenly spaced in probability.
CELLS = 1024
# From here on the tail is bent so that the table has the mean that was measured.
_TAIL = PROBABILITIES[-2]

# What a number is for. NumPy's integers, here and in `records`: for each of Python's, Numba would compile a version.
FLOW, ROUTER_IN, ROUTER_OUT, PREPROCESS, OVERHEAD, ACCEPT, SHADOW, REPLICA = np.arange(8)
ANSWER, FAILURE, HEDGE, PAUSE, SHED, PASS = np.arange(8, 14)


@part
def mixed(value: Any) -> Any:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014): every bit of the result hangs on every bit of the value."""
    z = np.uint64(value) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@part
def uniform(seed: Any, purpose: Any, which: Any) -> float:
    """In [0, 1): always the same for the same three."""
    mark = np.uint64(seed) + np.uint64(purpose) * np.uint64(0xD1342543DE82EF95)
    return np.float64(mixed(np.uint64(which) ^ mixed(mark)) >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@part
def drawn(w: Any, row: Any, u: float) -> float:
    """The duration at probability `u` of one row of the tables, between its cells by a straight line."""
    place = u * CELLS
    cell = int(place)
    at = row * (CELLS + 1) + cell
    low = tables(w)[at]
    return low + (tables(w)[at + 1] - low) * (place - cell)


def table(distribution: Distribution) -> Float64:
    """A distribution as `CELLS + 1` values, whose mean is that of the samples.

    Eleven quantiles leave the last hundredth open: a straight line to the greatest sample would count rare outliers as
    if they filled it. So the line is bent (a power of the probability) until the mean is right; what bending cannot
    mend is scaled.
    """
    u = np.linspace(0.0, 1.0, CELLS + 1)
    values = np.interp(u, PROBABILITIES, distribution.seconds)
    wanted = distribution.mean
    if values[-1] <= 0 or wanted <= 0:
        return values
    tail = u > _TAIL
    low, high = np.interp(_TAIL, PROBABILITIES, distribution.seconds), distribution.seconds[-1]
    missing = wanted - _mean(np.where(tail, low, values))
    room = (high - low) * (1 - _TAIL)
    if room > 0:
        power = min(50.0, max(0.02, room / max(missing, room / 50.0) - 1.0))
        values = np.where(tail, low + (high - low) * (np.maximum(0.0, u - _TAIL) / (1 - _TAIL)) ** power, values)
    # The last cell is a thousandth wide, and a line in it: an outlier that is rarer still must not fill half of it.
    values[-1] = np.clip(values[-1] + 2 * CELLS * (wanted - _mean(values)), values[-2], values[-1])
    return values * (wanted / _mean(values))


def _mean(values: Float64) -> float:
    return float((values[:-1] + values[1:]).mean() / 2)
