"""Overload in the simulator: what is shed, and that a calm cluster is passed over without changing anything."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.capacity.scenario import Flow
from benchmarks.capacity.simulator import run, simulate
from benchmarks.simulator import poisson
from benchmarks.traffic.arrivals import Mmpp
from deployments.batching import BatchLimits
from serve.config.overload import Overload
from serve.config.resilience import Resilience
from serve.resilience.settings import settings_of
from tests.support import made_up


def test_overload_sheds_so_that_those_who_get_in_are_answered_soon() -> None:
    stage = made_up.stage(seconds=0.01, limits=BatchLimits(max_items=1, max_queue=4000))
    flows = (Flow(name="all", entry="clip", deadline_s=5.0),)
    calls = {"clip": settings_of(Resilience(), "clip", ours=True, room=(2, 2))}
    times = poisson(150, 9000, 15)
    loose = made_up.scenario(stage, flows=flows, router_places=2000)
    kept = simulate(replace(loose, calls=calls, overload=Overload()), times, seed=15).summary()
    swamped = simulate(loose, times, seed=15).summary()
    assert kept.done_per_s > 85, "the model stays busy"
    assert kept.p50_s < 0.5 * swamped.p50_s
    assert 0.2 < kept.failed_share < 0.5


def test_without_long_waits_nobody_is_shed() -> None:
    stage = made_up.stage(seconds=0.01, limits=BatchLimits(max_items=1))
    calls = {"clip": settings_of(Resilience(), "clip", ours=True, room=(2, 2))}
    done = simulate(made_up.scenario(stage, calls=calls, overload=Overload()), poisson(30, 6000, 16), seed=16)
    assert done.ok.all()


def test_calls_that_usually_take_long_may_wait_longer() -> None:
    """Of passes of 0.4 s, a random burst alone makes calls wait for more than the 20 ms that others may."""
    stage = made_up.stage(seconds=0.4, limits=BatchLimits(max_items=1, max_queue=4000))
    flows = (Flow(name="all", entry="clip", deadline_s=30.0),)
    calls = {"clip": settings_of(Resilience(), "clip", ours=True, room=(2, 2))}
    made = made_up.scenario(stage, flows=flows, router_places=2000, calls=calls, overload=Overload())
    assert simulate(made, poisson(1.0, 1000, 22), seed=22).ok.all()


def test_a_moments_crowd_after_a_second_without_waits_is_not_shed() -> None:
    """The tick's own mean is far above the target, that of the last second is not."""
    stage = made_up.stage(seconds=0.01, limits=BatchLimits(max_items=1, max_queue=4000))
    flows = (Flow(name="all", entry="clip", deadline_s=5.0),)
    calls = {"clip": settings_of(Resilience(), "clip", ours=True, room=(2, 2))}
    made = made_up.scenario(stage, flows=flows, router_places=2000, calls=calls, overload=Overload())
    even = np.arange(0.014, 60, 0.014)
    crowds = np.repeat(np.arange(3.105, 60, 3.0), 20)
    assert simulate(made, np.sort(np.concatenate([even, crowds])), seed=23).ok.all()


def test_a_crowd_at_one_model_is_not_shed_at_another() -> None:
    limits = BatchLimits(max_items=1, max_queue=4000)
    stages = (made_up.stage("clip", seconds=0.01, limits=limits), made_up.stage("other", seconds=0.001, limits=limits))
    calls = {name: settings_of(Resilience(), name, ours=True, room=(2, 2)) for name in ("clip", "other")}
    flows = tuple(Flow(name=name, entry=name, share=0.5, deadline_s=5.0) for name in ("other", "clip"))
    made = made_up.scenario(*stages, flows=flows, router_places=2000, calls=calls, overload=Overload())
    done = simulate(made, poisson(300, 9000, 21), seed=21)
    refused = {name: float((~done.ok[done.flow == number]).mean()) for number, name in enumerate(done.flows)}
    assert refused["other"] == 0
    assert 0.2 < refused["clip"] < 0.5


@pytest.mark.parametrize("seed", range(4))
def test_ticks_that_are_passed_over_would_have_done_nothing(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bursts beyond what the model can do, each after a quiet time: the same requests are shed at the same times."""
    times = Mmpp(low_per_s=20, high_per_s=300, low_s=8, high_s=1).times(90, seed)
    stage = made_up.stage(seconds=0.01, limits=BatchLimits(max_items=1, max_queue=4000))
    flows = tuple(Flow(name=name, entry="clip", share=0.5, deadline_s=5.0) for name in ("one", "other"))
    calls = {"clip": settings_of(Resilience(), "clip", ours=True, room=(2, 2))}
    made = made_up.scenario(stage, flows=flows, router_places=2000, calls=calls, overload=Overload())
    done = simulate(made, times, seed=seed)
    monkeypatch.setattr(run, "_CALM_TICKS", 0)
    every = simulate(made, times, seed=seed)
    assert 0 < np.count_nonzero(~done.ok) < len(times) / 2
    np.testing.assert_array_equal(done.ok, every.ok)
    np.testing.assert_array_equal(done.latency_s, every.latency_s)
