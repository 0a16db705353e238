"""What a process costs by request, and what each time that it is woken: fitted, since its processor time is their sum.

A request that meets nobody wakes everyone whom it passes. Under load a loop that has just done one request finds the
next one there already, so that requests become cheaper the more there are. How often a loop was woken the simulator
counts, in a run with the same arrivals; it depends on the costs themselves, so both are found in turns.

A request that comes after a long pause costs more than its wake-ups explain, presumably for cold caches. That is no
matter of capacity, so runs in which requests do not meet count only where there are not two others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
from scipy.optimize import lsq_linear

from benchmarks.capacity.outcome import Outcome
from benchmarks.capacity.profiler.served import CLIENT, INGRESS, REPLICA, ROUTER, Served
from benchmarks.capacity.scenario import Scenario
from benchmarks.capacity.simulator import simulate

WHOSE: Final = (ROUTER, REPLICA, INGRESS, CLIENT)
_ROUNDS = 12
# Runs that tell two figures.
_ENOUGH = 2
# Of the least that a request was seen to cost, what is its own at any load. Without a bound, runs that are too much
# alike may put all of it into wake-ups, and then nobody is ever too busy.
_OWN_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Work:
    """Processor time of one process, or of several alike.

    Attributes:
        request_s: of a request.
        wake_s: beyond it, each time that the process is woken.
    """

    request_s: float
    wake_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Spent:
    """A run, and the processor seconds at a pace of 1 that one of its requests took, by whose they are."""

    run: Served
    seconds: Mapping[str, float]


def steady(spent: Spent) -> dict[str, Work]:
    """By whose it is, from one run alone: as if nobody ever had to be woken."""
    return {whose: Work(spent.seconds[whose]) for whose in WHOSE}


def works(
    scenario: Callable[[Mapping[str, Work], float], Scenario],
    idle: Spent,
    loaded: Sequence[Spent],
    waking: Mapping[str, float] = MappingProxyType({}),
) -> dict[str, Work]:
    """By whose it is, from a run in which requests do not meet and others in which they do.

    Args:
        scenario: what was asked, with such costs and at a pace.
        loaded: with less than two `idle` counts as well; without any nothing is known of waking, and a request costs
            what it does alone.
        waking: seconds of a wake-up, of those of whom they are known.
    """
    if not loaded:
        return steady(idle)
    runs = tuple(loaded) if len(loaded) >= _ENOUGH else (idle, *loaded)
    found = steady(loaded[0])
    for _ in range(_ROUNDS):
        woken = [_woken(scenario(found, one.run.pace), one.run) for one in runs]
        found = {
            whose: fitted([one.seconds[whose] for one in runs], [counts[whose] for counts in woken], waking.get(whose))
            for whose in WHOSE
        }
    return found


def fitted(seconds: Sequence[float], woken: Sequence[float], wake_s: float | None = None) -> Work:
    """The costs from which those of the runs differ least, by relative errors.

    Args:
        seconds: of a request, in each run.
        woken: how often it woke its process there.
        wake_s: of a wake-up, where it is known.
    """
    measured, counts = np.maximum(seconds, 1e-9), np.asarray(woken, np.float64)
    least = _OWN_SHARE * float(measured.min())
    if wake_s is not None:
        request_s = float(np.average(measured - counts * wake_s, weights=measured**-2))
        return Work(max(least, request_s), wake_s)
    columns = np.stack([np.ones(len(measured)), counts], axis=1) / measured[:, None]
    request, wake = lsq_linear(columns, np.ones(len(measured)), bounds=([least, 0.0], np.inf)).x
    return Work(float(request), float(wake))


def _woken(scenario: Scenario, run: Served) -> dict[str, float]:
    """Times a request that each is woken."""
    due, paces = np.sort(run.requests.due_s), np.asarray(run.each_second)
    outcome: Outcome = simulate(scenario, due, seed=0, paces=paces)
    return {whose: outcome.woken[whose] / len(due) for whose in WHOSE}
