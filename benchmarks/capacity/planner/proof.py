"""Whether runs have requests enough to prove an objective at all, before any is simulated."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np

from benchmarks.capacity.planner.confidence import upper_share
from benchmarks.capacity.planner.objectives import BLOCKS, Objective
from benchmarks.capacity.planner.problem import Problem
from serve.errors import ConfigError

# Runs without a single miss should prove a share of misses this much below what is allowed: otherwise one miss decides.
_ROOM = 0.5
_MOST_SEEDS = 100


def check_provable(problem: Problem) -> None:
    """A cluster that meets every request in time holds each objective.

    Raises:
        ConfigError: the runs are too short and too few for that; names a length and seeds that would do.
    """
    for objective in problem.objectives:
        best = _best_bound(problem, objective)
        if best is None or best <= _allowed(objective):
            continue
        seeds = enough_seeds(problem, problem.wishes.seeds, _MOST_SEEDS)
        or_seeds = f" or --seeds {seeds}" if _roomy(problem, seeds=seeds) else ""
        raise ConfigError(
            f"{objective.label} cannot be proven: if all of about {_requests(problem, objective):,.0f} requests were "
            f"in time, as many as {100 * best:.2g} % of them might still be late, and "
            f"{100 * _allowed(objective):.3g} % may be; give --duration {_enough_seconds(problem)}{or_seeds}",
            param="duration",
        )


def enough_seeds(problem: Problem, least: int, most: int) -> int:
    """Fewest runs that prove each objective with room for misses; `most` where even those do not."""
    return next((seeds for seeds in range(least, most) if _roomy(problem, seeds=seeds)), most)


def _enough_seconds(problem: Problem) -> int:
    """Length of a run with which as many seeds would do."""
    lengths = (math.ceil(problem.seconds * 1.1**step) for step in itertools.count(1))
    return next(seconds for seconds in lengths if _roomy(problem, seconds=seconds))


def _roomy(problem: Problem, **wishes: float) -> bool:
    """Whether runs of other wishes prove each objective with room for misses."""
    wished = replace(problem, wishes=replace(problem.wishes, **wishes))  # type: ignore[arg-type]
    bounds = ((one, _best_bound(wished, one)) for one in problem.objectives)
    return all(best is None or best <= _ROOM * _allowed(one) for one, best in bounds)


def _best_bound(problem: Problem, objective: Objective) -> float | None:
    """Upper bound of the share of misses if there are none; None for a mean, of which no number of requests says
    beforehand what it proves."""
    if objective.quantile is None:
        return None
    blocks = BLOCKS * problem.wishes.seeds
    requests = _requests(problem, objective)
    return upper_share(np.zeros(blocks), np.full(blocks, requests / blocks), problem.wishes.confidence)


def _requests(problem: Problem, objective: Objective) -> float:
    """Measured ones of all runs, on average."""
    share = sum(flow.share for flow in problem.flows if objective.flow in (None, flow.name))
    return problem.rate_per_s * share * (problem.seconds - problem.warm_up_s) * problem.wishes.seeds


def _allowed(objective: Objective) -> float:
    return 1.0 - (objective.quantile or 0.0)
