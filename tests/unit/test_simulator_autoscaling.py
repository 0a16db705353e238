"""Replicas that follow the load: the decision is Ray Serve's, and it comes as late as there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.serve import autoscaling_policy as rays
from ray.serve.config import AutoscalingConfig

from benchmarks.autoscaling import RAMPS, Ramp, figures, made
from benchmarks.capacity.outcome import Outcome
from benchmarks.capacity.scenario import Scaling
from benchmarks.capacity.simulator import simulate
from deployments.batching import BatchLimits
from serve.autoscaling.queue_rule import Waiting, decide
from tests.support import made_up

_RULE = Scaling(
    min_replicas=1,
    max_replicas=8,
    target_ongoing=4,
    look_back_s=30,
    upscale_delay_s=10,
    downscale_delay_s=40,
    start_s=15,
    node_s=0,
    room=8,
)


def _by_ray(
    config: AutoscalingConfig, state: dict[str, Any], ongoing: float, running: int, target: int, now: float
) -> int:
    """Ray Serve's decision, put together as its controller does, at a time of our own."""
    if running == 0 and ongoing > 0:
        decided = max(1, target)
    else:
        wanted = running * (ongoing / (config.get_target_ongoing_requests() * running)) if running else target
        scaled = rays._apply_scaling_factors(wanted, running, config)
        decided, found = rays._apply_delay_logic(max(0, scaled), target, config, state, _now=now)
        state.update(found)
    return min(config.max_replicas, max(config.min_replicas, decided))


@settings(max_examples=200, deadline=None)
@given(
    least=st.integers(0, 2),
    up_s=st.sampled_from([0.0, 5.0, 10.0]),
    down_s=st.sampled_from([0.0, 20.0]),
    loads=st.lists(st.integers(0, 60 * 64).map(lambda n: n / 64), min_size=5, max_size=60),
)
def test_decisions_are_rays(least: int, up_s: float, down_s: float, loads: list[float]) -> None:
    rule = replace(_RULE, min_replicas=least, upscale_delay_s=up_s, downscale_delay_s=down_s)
    config = AutoscalingConfig(
        min_replicas=least,
        max_replicas=8,
        target_ongoing_requests=4,
        upscale_delay_s=up_s,
        downscale_delay_s=down_s,
    )
    waiting, state, target = Waiting(), dict[str, Any](), max(1, least)
    for second, ongoing in enumerate(loads):
        now = 2.5 * second
        theirs = _by_ray(config, state, ongoing, target, target, now)
        ours, waiting = decide(rule, waiting, ongoing, target, target, now)
        assert ours == theirs, f"at {now} s with {ongoing} in progress on {target}"
        target = ours


def _run(rule: Scaling, times: np.ndarray, seconds: float = 0.05) -> Outcome:
    stage = made_up.stage(
        seconds=seconds, scaling=rule, replicas=rule.min_replicas, limits=BatchLimits(max_items=1, max_queue=4000)
    )
    return simulate(made_up.scenario(stage), times, seed=1)


def _waits(done: Outcome, start: float, end: float) -> float:
    chosen = (done.arrived_s >= start) & (done.arrived_s < end)
    return float(done.latency_s[chosen].mean())


def test_replicas_come_after_the_report_the_delay_and_the_start() -> None:
    times = np.arange(0, 300, 1 / 30)  # one replica does 20 a second
    done = _run(replace(_RULE, downscale_delay_s=1000), times)
    # Ten seconds to the first report, ten of delay, fifteen to start.
    late = done.arrived_s + done.latency_s
    by_then = (late < 34).sum()
    assert by_then == pytest.approx(34 * 20, rel=0.02), "until then there is one"
    assert (late < 60).sum() > 34 * 20 + 1.5 * 20 * 25, "then there are more"
    assert _waits(done, 250, 300) < 0.2
    assert done.ok.all()


def test_a_node_that_is_not_up_takes_longer() -> None:
    times = np.arange(0, 200, 1 / 30)
    near, far = _run(_RULE, times), _run(replace(_RULE, node_s=60, room=1), times)
    assert _waits(far, 60, 90) > 2 * _waits(near, 60, 90)
    assert far.stages["clip"].replicas < near.stages["clip"].replicas


def test_replicas_go_when_the_load_has_stayed_low() -> None:
    times = np.concatenate([np.arange(0, 90, 1 / 30), np.arange(90, 600, 1.0)])
    done = _run(_RULE, times)
    assert done.ok.all(), "who is at a replica that goes is still answered"
    assert done.stages["clip"].replicas < 3
    fixed = _run(replace(_RULE, downscale_delay_s=10_000), times)
    assert fixed.stages["clip"].replicas > done.stages["clip"].replicas + 0.5


def test_a_deployment_without_replicas_starts_one_for_the_first_request() -> None:
    done = _run(replace(_RULE, min_replicas=0), np.array([5.0]))
    assert done.ok.all()
    assert done.latency_s[0] == pytest.approx(15.05, abs=0.35)


@pytest.mark.parametrize("ramp", RAMPS[:2], ids=lambda ramp: ramp.name)
def test_the_policy_for_cascades_asks_earlier_and_keeps_more_within_the_objective(ramp: Ramp) -> None:
    """The same ramp of CLIP's requests on both, in simulated time."""
    times = ramp.times(seed=3)
    rays, ours = (
        figures(simulate(made(policy), times, seed=3, end_s=ramp.seconds), ramp) for policy in ("queue", "cascade")
    )
    assert rays["requested_s"] is not None
    assert ours["requested_s"] < rays["requested_s"] - 30
    assert 0 <= ours["over"] < rays["over"] / 2
    assert ours["most"] <= 4


def test_without_autoscaling_replicas_stay() -> None:
    stage = made_up.stage(seconds=0.05, limits=BatchLimits(max_items=1, max_queue=4000))
    done = simulate(made_up.scenario(stage), np.arange(0, 60, 1 / 30), seed=1)
    assert done.stages["clip"].replicas == pytest.approx(1.0)
