"""Taking times so that they can be compared: warmed up, interleaved, and kept as distributions."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.capacity.profiles import PROBABILITIES, Distribution


@dataclass(frozen=True, slots=True)
class Effort:
    """How long something is measured.

    Attributes:
        seconds: about so long, once the least is done.
        warm_up: rounds at the start that do not count.
        least, most: rounds that count.
    """

    seconds: float = 20.0
    warm_up: int = 3
    least: int = 20
    most: int = 500


def distribution(samples: Sequence[float]) -> Distribution:
    """Of measured seconds (or ratios).

    Raises:
        ValueError: there are none.
    """
    if not samples:
        raise ValueError("there are no samples")
    values = np.asarray(samples, np.float64)
    quantiles = np.maximum.accumulate(np.quantile(values, PROBABILITIES))
    return Distribution(seconds=tuple(float(one) for one in quantiles), mean=float(values.mean()), samples=len(samples))


def rounds(sizes: Sequence[int], seed: int = 0) -> Iterator[list[int]]:
    """Every size once a round, in a new order each time: what drifts with the time meets all sizes alike."""
    draw = random.Random(seed)
    while True:
        order = list(sizes)
        draw.shuffle(order)
        yield order


def time_by_size(
    run: Callable[[int], object],
    sizes: Sequence[int],
    effort: Effort,
    *,
    clock: Callable[[], float] = time.perf_counter,
    before: Callable[[int], object] = lambda size: None,
    seed: int = 0,
) -> dict[int, list[float]]:
    """Seconds of `run(size)`, as often as `effort` says, each after a `before(size)` that does not count.

    Whole rounds only, so each size has as many samples as the others.
    """
    found: dict[int, list[float]] = {size: [] for size in sizes}
    began = clock()
    for number, order in enumerate(rounds(sizes, seed)):
        counted = number - effort.warm_up
        enough = counted >= effort.least and clock() - began >= effort.seconds
        if enough or counted >= effort.most:
            return found
        for size in order:
            before(size)
            started = clock()
            run(size)
            if counted >= 0:
                found[size].append(clock() - started)
    raise AssertionError("rounds never end")
