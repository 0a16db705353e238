"""Arrival envelopes: how many requests come within any window, and how fast a server must be for them."""

from __future__ import annotations

import math

import numba
import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


# Each window is so many times the one before: what `rate_within` asks beyond the least rate at most.
_STEP = 1.1
# Seconds that rounding may add to an end: a bound that rules servers out must not do so for these.
_ROUNDING_S = 1e-9


def windows(delay_s: float, run_s: float) -> Float64:
    """Window lengths from a tenth of a delay to beyond a run (InferLine's double, Crankshaw et al. 2020, section 5: too
    coarse to say what is enough without asking twice as much)."""
    shortest = 0.1 * min(delay_s, run_s)
    count = math.ceil(math.log(run_s / shortest) / math.log(_STEP)) + 2
    return np.asarray(shortest * _STEP ** np.arange(count), dtype=np.float64)


def envelope(times: Float64, lengths: Float64) -> Int64:
    """Most arrivals in any half-open window of each length.

    Args:
        times: sorted, in seconds.
    """
    position = np.arange(len(times))
    return np.array(
        [
            0 if not len(times) else int((np.searchsorted(times, times + length, "left") - position).max())
            for length in lengths
        ],
        dtype=np.int64,
    )


def rate_within(times: Float64, lengths: Float64, delay_s: float) -> float:
    """Requests a second with which none ends later than `delay_s` after it came, whatever lies between these windows.

    Network calculus (Le Boudec and Thiran 2001, theorem 1.4.2): the horizontal distance between an arrival curve q and
    a constant-rate server is at most D when the rate is at least q(w) / (w + D) for every window w. Between two
    windows the arrivals of the longer one may come within the shorter, so those are taken together; below the first,
    within no time at all; and beyond the last all there are.

    Args:
        lengths: rising.
    """
    if delay_s <= 0:
        return math.inf
    most = np.append(envelope(times, lengths), len(times))
    least = np.append(0.0, lengths)
    return float((most / (least + delay_s)).max(initial=0.0))


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _late(times: Float64, service_s: float, within_s: float) -> int:
    late, free = 0, 0.0
    for due in times:
        end = max(free, due) + service_s
        if end - due > within_s + _ROUNDING_S:
            late += 1
        else:
            free = end
    return late


def late_share(times: Float64, rate_per_s: float, within_s: float) -> float:
    """Least share of requests that a server of constant rate ends later than `within_s` after they came.

    Nothing that does so many a second, whatever its batches, can do better: it serves in order of arrival and leaves
    out what would be late, which makes room for what follows.
    """
    return _late(times, 1.0 / rate_per_s, within_s) / len(times) if len(times) else 0.0


def least_rate(times: Float64, within_s: float, allowed: float, *, tolerance: float = 1e-3) -> float:
    """Least constant rate at which at most a share `allowed` ends later than `within_s`, by bisection.

    A necessary condition for any server: what is slower misses the objective, and need not be simulated. Infinite when
    `within_s` is not above 0 and not all may be late.
    """
    if not len(times) or allowed >= 1:
        return 0.0
    if within_s <= 0:
        return math.inf
    low, high = 0.0, 1.0 / within_s
    while late_share(times, high, within_s) > allowed:
        low, high = high, 2 * high
    while high - low > tolerance * high:
        middle = (low + high) / 2
        if late_share(times, middle, within_s) > allowed:
            low = middle
        else:
            high = middle
    return low
