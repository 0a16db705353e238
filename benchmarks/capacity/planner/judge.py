"""Simulation decides: a candidate's runs over several seeds against the objectives."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from benchmarks.capacity.outcome import Outcome
from benchmarks.capacity.planner.candidate import Candidate, Loss, losses, node_usd_per_hour, scenario_of
from benchmarks.capacity.planner.envelope import Float64
from benchmarks.capacity.planner.objectives import Finding, findings
from benchmarks.capacity.planner.problem import Problem
from benchmarks.capacity.scenario import Scenario

Simulate = Callable[..., Outcome]
# With this multiple of the allowed misses, or mean, in the first run, the others need not be made.
_HOPELESS = 1.3
_HOURS = 24


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the runs showed.

    Attributes:
        findings: one an objective.
        runs: as many as were made: fewer than wished when the first was hopeless.
        nodes_usd, calls_usd: an hour; the latter is paid to providers.
        over: why it cannot go on like this for longer than the runs; None when it can.
    """

    held: bool
    findings: tuple[Finding, ...]
    runs: tuple[Outcome, ...]
    nodes_usd: float
    calls_usd: float
    over: str | None = None

    @property
    def usd_per_hour(self) -> float:
        """Nodes and calls together."""
        return self.nodes_usd + self.calls_usd

    def worst(self) -> Finding:
        """The objective that is furthest over its bound."""
        return max(self.findings, key=lambda one: one.bound / one.allowed)


class Judge:
    """Simulates candidates of one problem; arrivals of each seed are drawn once.

    Args:
        simulate: in place of `benchmarks.capacity.simulator.simulate`.
        first_seed: in place of the problem's: other seeds than those a plan was made with.
    """

    def __init__(self, problem: Problem, *, simulate: Simulate | None = None, first_seed: int | None = None) -> None:
        if simulate is None:
            from benchmarks.capacity.simulator import simulate as simulate_cluster

            simulate = simulate_cluster
        self._simulate = simulate
        self._problem = problem
        self._first = problem.wishes.first_seed if first_seed is None else first_seed
        self._arrivals: dict[int, Float64] = {}
        self.simulated = 0
        self.requests = 0

    def arrivals(self, seed: int) -> Float64:
        """Of one run."""
        if seed not in self._arrivals:
            self._arrivals[seed] = self._problem.arrivals.times_anywhere(self._problem.seconds, seed)
        return self._arrivals[seed]

    def judge(self, candidate: Candidate, *, lost: Loss | None = None, all_runs: bool = False) -> Verdict:
        """Runs a candidate.

        Args:
            lost: a node that is gone.
            all_runs: also when the first run is hopeless.
        """
        made = scenario_of(self._problem, candidate, lost=lost)
        nodes = node_usd_per_hour(self._problem, candidate.nodes)
        if made is None:
            return Verdict(False, (), (), nodes, 0.0)
        self.simulated += 1
        wishes = self._problem.wishes
        # Alone: it may be enough, and the first one of all compiles.
        runs = self._runs(made, [self._first])
        if all_runs or not self._hopeless(runs[0]):
            runs += self._runs(made, range(self._first + 1, self._first + wishes.seeds))
        found = findings(self._problem.objectives, runs, wishes.confidence)
        calls_usd = _calls_usd(runs, self._problem.rate_per_s)
        over = over_budget(self._problem, calls_usd) or self._spent_rate(runs)
        held = len(runs) == wishes.seeds and all(one.held for one in found) and over is None
        return Verdict(held, found, tuple(runs), nodes, calls_usd, over)

    def holds(self, candidate: Candidate) -> Verdict:
        """The candidate as it is and, where the plan must survive it, with any one node lost."""
        verdict = self.judge(candidate)
        if not verdict.held or not self._problem.wishes.survive_node_loss:
            return verdict
        for lost in losses(candidate):
            without = self.judge(candidate, lost=lost)
            if not without.held:
                return Verdict(
                    False, without.findings, without.runs, verdict.nodes_usd, verdict.calls_usd, without.over
                )
        return verdict

    def _runs(self, made: Scenario, seeds: Sequence[int]) -> list[Outcome]:
        """A run a seed, as many at once as there are cores: compiled code holds no interpreter lock."""
        drawn = [self.arrivals(seed) for seed in seeds]
        self.requests += sum(len(arrivals) for arrivals in drawn)
        start_s, end_s = self._problem.warm_up_s, self._problem.seconds

        def run(seed: int, arrivals: Float64) -> Outcome:
            return self._simulate(made, arrivals, seed=seed, start_s=start_s, end_s=end_s)

        if len(drawn) < 2:
            return list(map(run, seeds, drawn))
        with ThreadPoolExecutor(min(len(drawn), os.cpu_count() or 1)) as threads:
            return list(threads.map(run, seeds, drawn))

    def _spent_rate(self, runs: list[Outcome]) -> str | None:
        """A limit begins with a minute's calls to spare, which a short run may live on: all of it used is too much."""
        for name in self._problem.cluster.providers:
            if all(name in run.stages and run.stages[name].busy_share >= 1 for run in runs):
                return f"every run uses all calls that {name}'s limits let pass"
        return None

    def _hopeless(self, run: Outcome) -> bool:
        found = findings(self._problem.objectives, [run], self._problem.wishes.confidence)
        return any(one.measured > _HOPELESS * one.allowed for one in found)


def over_limit(problem: Problem, provider: str, calls_per_s: float) -> str | None:
    """Why a provider cannot be asked so often; None when it can.

    Raises:
        ConfigError: its tokens are limited, and nothing says how many a call takes.
    """
    most = problem.calls_per_minute(provider)
    if most is None or 60.0 * calls_per_s <= most:
        return None
    return f"would make {60.0 * calls_per_s:.0f} calls a minute to {provider}, whose limits let {most:.0f} pass"


def over_budget(problem: Problem, usd_per_hour: float) -> str | None:
    """Why the cluster file's money for a day at the planned load does not do; None when it does."""
    most = problem.cluster.resilience.usd_per_day
    if most is None or _HOURS * usd_per_hour <= most:
        return None
    return f"a day of calls at this load costs {_HOURS * usd_per_hour:.2f} $; resilience.usd_per_day is {most:g}"


def _calls_usd(runs: list[Outcome], rate_per_s: float) -> float:
    """An hour's calls at the planned rate: what a request cost in the runs, whatever number of them was drawn."""
    paid = sum(float(run.usd[run.measured].sum()) for run in runs)
    asked = sum(int(run.measured.sum()) for run in runs)
    return 3600.0 * rate_per_s * paid / asked if asked else 0.0
