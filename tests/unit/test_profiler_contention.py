"""How well cores are used, fitted to runs of which it is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.capacity.profiler.contention import imbalance
from benchmarks.capacity.profiler.served import Served
from benchmarks.capacity.scenario import Flow, Scenario
from benchmarks.capacity.simulator import simulate
from tests.support import made_up
from tests.unit.test_profiler import served


def asked(share: float, pace: float) -> Scenario:
    """Four models that want two cores, on each of which work takes `pace` times 10 ms."""
    profile = made_up.model(made_up.passes((1, 0.01 * pace))).model_copy(update={"cores": 1.0, "imbalance": share})
    stages = [made_up.stage(f"m{number}", profile=profile) for number in range(4)]
    flows = tuple(Flow(name=stage.name, entry=stage.name, share=0.25) for stage in stages)
    return made_up.scenario(*stages, flows=flows, cores=2.0)


def ran(share: float, pace: float) -> Served:
    """A run of 20 s at 110 requests a second, as the simulator has it with draws of its own."""
    due = np.sort(np.random.default_rng(3).uniform(0, 20, 2200))
    seconds = (0.9, 1.1) * 10
    latency = simulate(asked(share, pace), due, seed=99, paces=np.array(seconds)).latency_s
    run = served([], list(zip(due.tolist(), (due + latency).tolist(), strict=True)))
    return replace(run, pace=pace, each_second=seconds)


@pytest.mark.parametrize("share", [0.0, 0.4, 0.9])
def test_the_share_of_empty_cores_is_found_at_any_pace(share: float) -> None:
    assert imbalance(asked, [ran(share, 1.0), ran(share, 1.2)]) == pytest.approx(share, abs=0.051)


def test_without_runs_nothing_is_known() -> None:
    assert imbalance(asked, []) == 0.0
