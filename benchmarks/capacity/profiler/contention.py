"""How much of busy cores is lost to switching between processes: fitted, for no clock shows it.

Processor times say what work costs, and processor sharing how long it then takes; a real scheduler is no processor
sharing. What is left is one number, the share of the cores that does not get work done while some waits, at which the
simulator's mean latencies come closest to those of the loaded runs that everything else was measured in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.capacity.profiler.served import Served
from benchmarks.capacity.scenario import Scenario
from benchmarks.capacity.simulator import simulate

_MOST, _STEP = 0.4, 0.02
_DRAWS = 3


def lost_share(scenario: Callable[[float, float], Scenario], runs: Sequence[Served]) -> float | None:
    """The share, in steps of 0.02 from 0 to 0.4; None without runs.

    Args:
        scenario: what was asked, at a pace and with a share that is lost.
        runs: that cores were busy in.
    """
    if not runs:
        return None
    shares = [round(number * _STEP, 2) for number in range(round(_MOST / _STEP) + 1)]
    return min(shares, key=lambda share: sum(_apart(scenario(run.pace, share), run) for run in runs))


def _apart(scenario: Scenario, run: Served) -> float:
    """Predicted over measured mean latency, as the size of its logarithm."""
    arrivals, paces = np.sort(run.requests.due_s), np.asarray(run.each_second)
    predicted = [float(simulate(scenario, arrivals, seed=seed, paces=paces).summary().mean_s) for seed in range(_DRAWS)]
    measured = float(run.requests.latency_s[run.requests.ok].mean())
    return abs(math.log(sum(predicted) / _DRAWS / measured))
