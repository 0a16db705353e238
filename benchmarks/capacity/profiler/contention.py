"""How far threads are from using all cores: fitted, for no clock shows it.

Processor times say what work costs, and processor sharing how long it then takes; but a real scheduler lets two threads
wait for each other on one core while another core has none. How many cores stay empty when threads are put on them by
chance is arithmetic; how much of that is so is the one figure at which the simulator's mean latencies come closest to
those of the loaded runs that everything else was measured in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.capacity.profiler.served import Served
from benchmarks.capacity.scenario import Scenario
from benchmarks.capacity.simulator import simulate

_STEP = 0.05
_DRAWS = 3


def imbalance(scenario: Callable[[float, float], Scenario], runs: Sequence[Served]) -> float:
    """`ModelProfile.imbalance`, in steps of 0.05; 0 without runs.

    Args:
        scenario: what was asked, with such a share and at a pace.
        runs: that cores were busy in.
    """
    shares = [round(number * _STEP, 2) for number in range(round(1 / _STEP) + 1)]
    return min(shares, key=lambda share: sum(_apart(scenario(share, run.pace), run) for run in runs))


def _apart(scenario: Scenario, run: Served) -> float:
    """Predicted over measured mean latency, as the size of its logarithm; infinite where nothing would be answered."""
    order = np.argsort(run.requests.due_s)
    due, tokens, paces = run.requests.due_s[order], run.requests.tokens[order], np.asarray(run.each_second)
    written = (np.zeros_like(tokens), tokens) if tokens.any() else None
    runs = [simulate(scenario, due, seed=seed, paces=paces, tokens=written) for seed in range(_DRAWS)]
    predicted = sum(float(one.summary().mean_s) for one in runs) / _DRAWS
    if not math.isfinite(predicted):
        return math.inf
    return abs(math.log(predicted / float(run.requests.latency_s[run.requests.ok].mean())))
