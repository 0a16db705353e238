"""`argus validate`: a workload for real at several loads, beside what the simulator says of the same requests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.capacity.comparison import DRAWS, Figure, Float64, Simulate, capacity_per_s, compare, predict
from benchmarks.capacity.outcome import Outcome
from benchmarks.capacity.scenario import Scenario
from benchmarks.loadtest.record import LoadRecord
from benchmarks.report import Column, Report, this_command
from benchmarks.traffic.arrivals import Arrivals

# Largest relative error of each figure that counts as predicted.
BOUNDS = {"throughput": 0.02, "mean": 0.05, "p95": 0.10, "p99": 0.10}
# By how much the pace of a run may be told wrong; the record says what that would make of the mean.
DOUBT = 0.05
GOAL = "at each load, over all seeds: throughput within 2 %, mean within 5 %, P95 and P99 within 10 % of the measured"
_COLUMNS = (
    Column("workload", "workload"),
    Column("load", "load", ".0%"),
    Column("rate_per_s", "offered/s", ".1f"),
    Column("requests", "requests", ".0f"),
    Column("pace", "pace", ".2f"),
    *(
        column
        for name, unit, form in (
            ("throughput", "/s", ".2f"),
            ("mean", "ms", ".1f"),
            ("p50", "ms", ".1f"),
            ("p95", "ms", ".1f"),
            ("p99", "ms", ".1f"),
        )
        for column in (
            Column(f"{name}_measured", f"{name} {unit}", form),
            Column(f"{name}_predicted", "predicted", form),
            Column(f"{name}_error", "error", "+.1%"),
        )
    ),
    Column("mean_faster", f"mean, pace -{DOUBT:.0%}", "+.0%"),
    Column("mean_slower", f"mean, pace +{DOUBT:.0%}", "+.0%"),
    Column("mean_spread", "runs apart", ".0%"),
)


@dataclass(frozen=True, slots=True)
class Trial:
    """What is validated.

    Attributes:
        scenario: at a pace of this machine's processors (`benchmarks.capacity.pace`).
        arrivals: the process, at any rate; see `planned`.
        loads: shares of `capacity_per_s`.
        seeds: one real run each, at each load.
        seconds: of the measured part of a run.
        planned: the arrivals are a plan's, taken as they are at a load of 1: what a trace is scaled to is the rate of
            all of it, not of a run.
    """

    workload: str
    scenario: Callable[[float], Scenario]
    arrivals: Arrivals
    capacity_per_s: float
    loads: Sequence[float]
    seeds: Sequence[int]
    seconds: float
    planned: bool = False

    def process(self, load: float) -> Arrivals:
        """The arrivals of one load."""
        if self.planned and load == 1:
            return self.arrivals
        return self.arrivals.scaled(load * self.capacity_per_s)


@dataclass(frozen=True, slots=True)
class Real:
    """A real run.

    Attributes:
        pace: of the processors, and `each_second` from the run's beginning on over that.
    """

    record: LoadRecord
    pace: float
    each_second: Float64


RunReal = Callable[[Arrivals, int], Real]


def measure(trial: Trial, run: RunReal, simulate: Simulate) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows of the table, and why the goal is missed.

    Args:
        run: runs the workload for real with these arrivals and this seed.
    """
    rows, misses = [], []
    for load in trial.loads:
        process = trial.process(load)
        runs = [run(process, seed) for seed in trial.seeds]
        records, paces = [one.record for one in runs], [one.pace for one in runs]
        real = [record.outcome() for record in records]
        figures = compare(real, _predicted(trial, runs, simulate))
        doubt = {
            f"mean_{word}": _mean_error(compare(real, _predicted(trial, runs, simulate, factor)))
            for word, factor in (("faster", 1 - DOUBT), ("slower", 1 + DOUBT))
        }
        rows.append(_row(trial, load, real, figures) | doubt | {"paces": paces, "pace": sum(paces) / len(paces)})
        where = f"{trial.workload} at {load:.0%}"
        misses += [f"{where}: {fault}" for record in records for fault in record.generator.faults]
        misses += [f"{where}: {miss}" for miss in _misses(figures)]
    return rows, misses


def _predicted(trial: Trial, runs: Sequence[Real], simulate: Simulate, factor: float = 1.0) -> list[Outcome]:
    """All simulations of real runs, each at its own pace times `factor`."""
    return [
        one
        for seed, ran in zip(trial.seeds, runs, strict=True)
        for one in predict(
            trial.scenario(factor * ran.pace),
            ran.record.outcome(),
            seed=seed,
            simulate=simulate,
            paces=ran.each_second,
        )
    ]


def _mean_error(figures: Sequence[Figure]) -> float:
    return next(one.error for one in figures if one.name == "mean")


def capacity(scenario: Scenario, arrivals: Arrivals, simulate: Simulate) -> float:
    """Requests a second of which loads are shares: the most that the simulated cluster sustains."""
    return capacity_per_s(scenario, arrivals, simulate=simulate)


def report(trials: Sequence[Trial], rows: list[dict[str, Any]], misses: list[str]) -> Report:
    """The table of all workloads."""
    return Report(
        command=this_command(),
        title="Predicted against measured, on this machine",
        goal=GOAL,
        columns=_COLUMNS,
        settings={
            "seeds": list(trials[0].seeds),
            "seconds": trials[0].seconds,
            "capacity_per_s": {trial.workload: trial.capacity_per_s for trial in trials},
        },
        rows=rows,
        notes=[
            "Load: share of the rate that the simulated cluster sustains, or of a plan's rate.",
            "Pace: processor time of a fixed piece of work beside the runs, over that at which profiles are written.",
            f"Both sides have the same requests at the same times, and each real run has {DRAWS} simulations.",
            f"Mean, pace -{DOUBT:.0%} and +{DOUBT:.0%}: its error, had the pace of the runs been told so much wrong.",
            "Runs apart: means of the real runs of one load, (most - least) / pooled; the record has all figures'.",
            "Throughput: right answers that ended in the window; latencies: of answered requests that were due in it.",
        ],
        misses=misses,
    )


def _row(trial: Trial, load: float, real: Sequence[Outcome], figures: Sequence[Figure]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "workload": trial.workload,
        "load": load,
        "rate_per_s": load * trial.capacity_per_s,
        "requests": sum(int(one.measured.sum()) for one in real),
        "failed_share": 1.0
        - sum(float((one.ok & one.measured).sum()) for one in real)
        / max(1, sum(int(one.measured.sum()) for one in real)),
    }
    for figure in figures:
        scale = 1.0 if figure.name == "throughput" else 1e3
        row |= {
            f"{figure.name}_measured": scale * figure.measured,
            f"{figure.name}_predicted": scale * figure.predicted,
            f"{figure.name}_error": figure.error,
            f"{figure.name}_spread": figure.spread,
        }
    return row


def _misses(figures: Sequence[Figure]) -> list[str]:
    return [
        f"{one.name} is predicted {one.error:+.1%} off (real runs lie {one.spread:.1%} apart)"
        for one in figures
        if one.name in BOUNDS and not abs(one.error) <= BOUNDS[one.name]
    ]
