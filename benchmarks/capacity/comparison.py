"""Predicted against measured: the same requests at the same times, once in the simulator and once for real."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from benchmarks.capacity.outcome import Outcome
from benchmarks.capacity.scenario import Scenario
from benchmarks.capacity.simulator.program import STEADY
from benchmarks.traffic.arrivals import Arrivals

Simulate = Callable[..., Outcome]
Int16 = npt.NDArray[np.int16]
Float64 = npt.NDArray[np.float64]

# Simulations of each real run: their draws differ, its arrivals do not, so that their own noise is small.
DRAWS = 8
# A rate is sustained when as many answers as this share of the offered ones come while requests do.
_SUSTAINED = 0.98
# A probe lasts so long, and has so many requests: with fewer, chance decides.
_PROBE_S, _PROBE_REQUESTS = 60.0, 2000
_BISECTIONS = 12


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of all runs at one load.

    Attributes:
        error: (predicted - measured) / measured; NaN when nothing was measured.
        spread: (largest - least) / measured, over the real runs alone: what a perfect prediction would still be off.
    """

    name: str
    predicted: float
    measured: float
    error: float
    spread: float


# What is compared: answers a second, and seconds of the answered requests that were due in the window.
FIGURES = ("throughput", "mean", "p50", "p95", "p99")


def pooled(runs: Sequence[Outcome]) -> Outcome:
    """Runs one after the other, as one: percentiles are of all requests, not means of percentiles.

    Raises:
        ValueError: there are none, or they measured windows of different lengths.
    """
    lengths = {round(run.end_s - run.start_s, 6) for run in runs}
    if len(lengths) != 1:
        raise ValueError(f"runs have windows of {sorted(lengths)} s; they must be alike, and there must be one")
    paths = tuple(dict.fromkeys(name for run in runs for name in run.paths))
    flows = tuple(dict.fromkeys(name for run in runs for name in run.flows))
    kept = [run.measured for run in runs]
    starts = np.cumsum([0.0, *(run.end_s - run.start_s for run in runs)])
    return Outcome(
        arrived_s=np.concatenate(
            [run.arrived_s[keep] - run.start_s + at for run, keep, at in zip(runs, kept, starts, strict=False)]
        ),
        latency_s=np.concatenate([run.latency_s[keep] for run, keep in zip(runs, kept, strict=True)]),
        ok=np.concatenate([run.ok[keep] for run, keep in zip(runs, kept, strict=True)]),
        path=np.concatenate([_renamed(run.path[keep], run.paths, paths) for run, keep in zip(runs, kept, strict=True)]),
        paths=paths,
        usd=np.concatenate([run.usd[keep] for run, keep in zip(runs, kept, strict=True)]),
        flow=np.concatenate([_renamed(run.flow[keep], run.flows, flows) for run, keep in zip(runs, kept, strict=True)]),
        flows=flows,
        start_s=0.0,
        end_s=float(starts[-1]),
    )


def _renamed(index: Int16, names: Sequence[str], among: Sequence[str]) -> Int16:
    """Indices into `names` as indices into `among`; -1 stays."""
    places = np.array([*(among.index(name) for name in names), -1], np.int16)
    chosen: Int16 = places[index]
    return chosen


def predict(
    scenario: Scenario,
    real: Outcome,
    *,
    seed: int,
    simulate: Simulate,
    draws: int = DRAWS,
    paces: Float64 = STEADY,
) -> list[Outcome]:
    """Simulations of the requests of a real run, at the times at which these were due, at the pace of its seconds."""
    return [
        simulate(
            scenario,
            real.arrived_s,
            seed=seed * draws + draw,
            start_s=real.start_s,
            end_s=real.end_s,
            paces=paces,
        )
        for draw in range(draws)
    ]


def compare(measured: Sequence[Outcome], predicted: Sequence[Outcome]) -> list[Figure]:
    """Every figure of `FIGURES`, over all runs together.

    Args:
        measured: the real runs at one load, one a seed.
        predicted: all simulations of them.
    """
    real, simulated, single = _figures(measured), _figures(predicted), [_figures([run]) for run in measured]
    found = []
    for place, name in enumerate(FIGURES):
        value, each = real[place], [one[place] for one in single]
        found.append(
            Figure(
                name=name,
                predicted=simulated[place],
                measured=value,
                error=(simulated[place] - value) / value if value else math.nan,
                spread=(max(each) - min(each)) / value if value else math.nan,
            )
        )
    return found


def _figures(runs: Sequence[Outcome]) -> tuple[float, ...]:
    """Those of `FIGURES`, in their order."""
    summary = pooled(runs).summary()
    throughput = sum(run.answers_per_s() for run in runs) / len(runs)
    return throughput, summary.mean_s, summary.p50_s, summary.p95_s, summary.p99_s


def capacity_per_s(scenario: Scenario, arrivals: Arrivals, *, simulate: Simulate, seed: int = 0) -> float:
    """The highest mean rate of a process that a scenario sustains, by bisection over simulations of a minute or more.

    Answers keep pace with requests below it; above it a queue grows, or requests are refused.
    """

    def sustained(rate_per_s: float) -> bool:
        seconds = max(_PROBE_S, _PROBE_REQUESTS / rate_per_s)
        times = arrivals.scaled(rate_per_s).times(seconds, seed)
        run = simulate(scenario, times, seed=seed, end_s=seconds)
        ended = run.ok & (run.arrived_s + run.latency_s < seconds)
        return float(ended.sum()) >= _SUSTAINED * len(times) - _in_progress(run)

    low, high = 0.0, 1.0
    while sustained(high) and high < 1e6:
        low, high = high, 2 * high
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if sustained(middle) else (low, middle)
    return low


def _in_progress(run: Outcome) -> float:
    """Requests that a system in balance has in progress at the end (Little's law), by its first half."""
    half = replace(run, end_s=(run.start_s + run.end_s) / 2).summary()
    return 0.0 if math.isnan(half.mean_s) else half.done_per_s * half.mean_s
