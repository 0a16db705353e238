"""What a plan must hold, and whether runs show that it does."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from benchmarks.capacity.outcome import Outcome
from benchmarks.capacity.planner.confidence import upper_mean, upper_share
from benchmarks.capacity.profiles import Record
from benchmarks.targets import Goal
from serve.errors import ConfigError

# Parts of a run that count as independent of each other.
BLOCKS = 4
_UNITS = {"ms": 1e-3, "s": 1.0}
# The tail in which it is seen how late requests come together holds so many times the misses that are allowed.
_TAIL = 5.0
_WRITTEN = re.compile(
    r"(?:(?P<flow>[\w.-]+)\.)?(?P<what>p\d+(?:\.\d+)?|mean|failed)=(?P<value>[\d.eE+-]+)(?P<unit>ms|s|%)?"
)


class Objective(Record):
    """One promise about latency or failures.

    Attributes:
        flow: whose requests; None for all.
        quantile: share of the requests that must be answered within `seconds`; a request that is refused or fails is
            a miss. None bounds the mean of the answered ones.
        seconds: the bound; None for none, when only failures count.
    """

    flow: str | None = None
    quantile: float | None = Field(None, gt=0, lt=1)
    seconds: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _something(self) -> Objective:
        if self.quantile is None and self.seconds is None:
            raise ValueError("bounds nothing; give quantile, seconds or both")
        return self

    @property
    def label(self) -> str:
        """`p99 <= 200 ms of search`"""
        whose = f" of {self.flow}" if self.flow else ""
        if self.seconds is None:
            return f"failed <= {100 * (1 - (self.quantile or 0)):.3g} %{whose}"
        name = "mean" if self.quantile is None else f"p{100 * self.quantile:.10g}"
        return f"{name} <= {1e3 * self.seconds:.4g} ms{whose}"

    def relaxed(self, factor: float) -> Objective:
        """The same with its seconds multiplied."""
        return self if self.seconds is None else self.model_copy(update={"seconds": self.seconds * factor})


class Finding(Record):
    """An objective beside what the runs showed.

    Attributes:
        objective: its label.
        allowed: greatest share of misses, or greatest mean in seconds.
        measured: the share or mean itself, over all runs.
        bound: its one-sided upper confidence bound, which must not exceed `allowed`.
        value_s: the quantile's own value, or the mean; None where only failures count, or nothing was answered.
    """

    objective: str
    allowed: float
    measured: float
    bound: float
    value_s: float | None
    held: bool


def objectives_of(goal: Goal, flow: str | None = None) -> tuple[Objective, ...]:
    """What a workload's goal asks."""
    found = [Objective(flow=flow, quantile=1 - goal.max_failed_share)] if goal.max_failed_share < 1 else []
    if goal.mean_ms is not None:
        found.append(Objective(flow=flow, seconds=goal.mean_ms / 1e3))
    for quantile, bound in ((0.5, goal.p50_ms), (0.95, goal.p95_ms), (0.99, goal.p99_ms)):
        if bound is not None:
            found.append(Objective(flow=flow, quantile=quantile, seconds=bound / 1e3))
    return tuple(found)


def parse_objective(text: str) -> Objective:
    """`p99=200ms`, `mean=0.03s`, `failed=0.1%`, or one flow's: `chat.p95=2s`.

    Raises:
        ConfigError: it is none of these, or a latency without a unit.
    """
    found = _WRITTEN.fullmatch(text.strip())
    try:
        if found is None:
            raise ValueError
        value, unit, what = float(found["value"]), found["unit"] or "", found["what"]
        if what == "failed":
            share = value / 100 if unit == "%" else value
            if unit in ("ms", "s") or not 0 < share < 1:
                raise ValueError
            return Objective(flow=found["flow"], quantile=1 - share)
        seconds = value * _UNITS[unit]
        quantile = None if what == "mean" else float(what[1:]) / 100
        return Objective(flow=found["flow"], quantile=quantile, seconds=seconds)
    except (ValueError, KeyError):
        raise ConfigError(
            f"{text!r}: must be like p99=200ms, mean=30ms, failed=0.1%, or of one flow: chat.p95=2s; latencies need ms "
            "or s",
            param="slo",
        ) from None


def findings(objectives: Sequence[Objective], runs: Sequence[Outcome], confidence: float) -> tuple[Finding, ...]:
    """Each objective beside the runs, which differ in their seeds."""
    return tuple(_finding(one, runs, confidence) for one in objectives)


def _finding(objective: Objective, runs: Sequence[Outcome], confidence: float) -> Finding:
    if objective.quantile is None:
        return _mean_finding(objective, runs, confidence)
    bound_s = np.inf if objective.seconds is None else objective.seconds
    allowed = 1.0 - objective.quantile
    slow_s = _quantile(objective, runs, max(0.5, 1.0 - _TAIL * allowed))
    misses, requests, slow = [], [], []
    for outcome, chosen in _blocks(objective, runs):
        latency = np.where(outcome.ok[chosen], outcome.latency_s[chosen], np.inf)
        requests.append(float(len(latency)))
        misses.append(float((~outcome.ok[chosen] | (latency > bound_s)).sum()))
        slow.append(0.0 if slow_s is None else float((latency > slow_s).sum()))
    total = max(1.0, sum(requests))
    bound = upper_share(np.array(misses), np.array(requests), confidence, slow=np.array(slow))
    return Finding(
        objective=objective.label,
        allowed=allowed,
        measured=sum(misses) / total,
        bound=bound,
        value_s=None if objective.seconds is None else _quantile(objective, runs, objective.quantile),
        held=bound <= allowed,
    )


def _mean_finding(objective: Objective, runs: Sequence[Outcome], confidence: float) -> Finding:
    sums, counts = [], []
    for outcome, chosen in _blocks(objective, runs):
        answered = outcome.latency_s[chosen & outcome.ok]
        sums.append(float(answered.sum()))
        counts.append(float(len(answered)))
    mean = sum(sums) / sum(counts) if sum(counts) else None
    bound = upper_mean(np.array(sums), np.array(counts), confidence) if mean is not None else float("inf")
    allowed = objective.seconds or 0.0
    far = 1e9  # records hold no infinities
    return Finding(
        objective=objective.label,
        allowed=allowed,
        measured=far if mean is None else mean,
        bound=min(bound, far),
        value_s=mean,
        held=bound <= allowed,
    )


def _blocks(objective: Objective, runs: Sequence[Outcome]) -> Iterator[tuple[Outcome, npt.NDArray[np.bool_]]]:
    for outcome in runs:
        chosen = _chosen(objective, outcome)
        edges = np.linspace(outcome.start_s, outcome.end_s, BLOCKS + 1)
        for low, high in itertools.pairwise(edges):
            yield outcome, chosen & (outcome.arrived_s >= low) & (outcome.arrived_s < high)


def _chosen(objective: Objective, outcome: Outcome) -> npt.NDArray[np.bool_]:
    chosen = outcome.measured
    if objective.flow is not None:
        chosen = chosen & (outcome.flow == outcome.flows.index(objective.flow))
    return chosen


def _quantile(objective: Objective, runs: Sequence[Outcome], share: float) -> float | None:
    """The latency that the share is met at, failures being later than everything; None when failures reach it."""
    pieces = []
    for outcome in runs:
        chosen = _chosen(objective, outcome)
        pieces.append(np.where(outcome.ok[chosen], outcome.latency_s[chosen], np.inf))
    latencies = np.concatenate(pieces)
    if not len(latencies):
        return None
    value = float(np.quantile(latencies, share, method="inverted_cdf"))
    return value if np.isfinite(value) else None
