"""What Ray Serve's controller calls: read as Ray reads it, within Ray's own wrapper, and never raising."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from ray.serve import autoscaling_policy as rays
from ray.serve._private.common import DeploymentID, TimeStampedValue
from ray.serve.config import AutoscalingContext, AutoscalingPolicy

from serve.autoscaling import evidence, ray_policy
from serve.autoscaling.plan import POLICY
from serve.autoscaling.ray_policy import CascadePolicy
from serve.placement import ROUTER
from tests.unit.autoscaled import RULE, plan
from tests.unit.autoscaling_contexts import Clock, context, said


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(ray_policy, "time", made)
    return made


def _policy() -> CascadePolicy:
    return CascadePolicy(**plan().arguments(), router=ROUTER)


def _contexts(clock: Clock, raw: Any, **llava: Any) -> dict[DeploymentID, AutoscalingContext]:
    made = (context(ROUTER, clock, running=2, target=2, raw=raw), context("llava", clock, **llava))
    return {one.deployment_id: one for one in made}


_LLAVA = DeploymentID("llava", "argus")


def _rise(policy: Any, clock: Clock, seconds: int, per_s: float, target: int = 1) -> int:
    """The number for llava after some time of calls."""
    for second in range(seconds):
        clock.now += 1
        raw = said(clock, **{evidence.came("llava"): per_s * second})
        decided, _ = policy(_contexts(clock, raw, running=target, target=target))
        target = decided[_LLAVA]
    return target


def test_it_decides_by_what_routers_told(clock: Clock) -> None:
    assert _rise(_policy(), clock, 60, 7.0) == 4, "7 calls a second at 2 each"


_CONTROLLER = """
import json, sys
from ray import cloudpickle
given = json.loads(sys.argv[1])
policy = cloudpickle.loads(bytes.fromhex(given["policy"]))(**given["arguments"])
print(type(policy).__name__, policy({}))
"""


def test_ray_can_take_it_by_value_and_as_json() -> None:
    """As Ray hands it to its controller, another process: the class pickled by value, its arguments as JSON."""
    given = AutoscalingPolicy(policy_function=POLICY, policy_kwargs=plan().arguments() | {"router": ROUTER})
    definition = given.get_serialized_policy_def()
    assert definition
    passed = json.dumps({"policy": definition.hex(), "arguments": given.policy_kwargs})
    done = subprocess.run(
        [sys.executable, "-c", _CONTROLLER, passed], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.strip() == "CascadePolicy ({}, {})", done.stderr


def test_within_rays_wrapper_its_numbers_come_through(clock: Clock) -> None:
    wrapped = rays._apply_app_level_autoscaling_config(_policy())  # type: ignore[arg-type]
    assert _rise(wrapped, clock, 60, 7.0) == 4
    decided, state = wrapped(_contexts(clock, None))
    assert ROUTER not in {key.name for key in decided}, "the router's number is not ours to change"
    assert all(isinstance(value, dict) for value in state.values())


def test_between_two_decisions_it_costs_nothing(clock: Clock) -> None:
    asked = 0

    def ongoing() -> float:
        nonlocal asked
        asked += 1
        return 0.0

    policy = _policy()
    for _ in range(40):
        clock.now += 0.1
        policy(_contexts(clock, None, ongoing=ongoing))
    assert asked == 4


def _broken() -> float:
    raise RuntimeError("the controller's series are broken")


def test_what_goes_wrong_is_counted_and_rays_rule_decides(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    policy, failed = _policy(), list[bool]()
    monkeypatch.setattr(policy._metrics, "failed", lambda: failed.append(True))
    monkeypatch.setattr(ray_policy, "decide", lambda *_: _broken())
    target = 1
    for _ in range(20):
        clock.now += 1
        decided, _ = policy(_contexts(clock, None, running=target, target=target, ongoing=20.0))
        target = decided[_LLAVA]
    assert target == 5, "20 in progress at 4 each, after its delay of 10 s"
    assert len(failed) == 20


def test_where_not_even_that_works_nothing_changes(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = _policy()
    clock.now += 1
    decided, _ = policy(_contexts(clock, None, ongoing=_broken))
    assert decided == {}
    assert _rise(policy, clock, 60, 7.0) == 4, "and it goes on when it can"


@pytest.mark.parametrize(
    "raw",
    [
        None,
        {},
        {"running_requests": {}},
        {evidence.came("llava"): {}},
        {evidence.came("llava"): {"r": []}},
        {"argus|nonsense": {"r": [TimeStampedValue(1.0, 1.0)]}},
        {evidence.came("gone"): {"r": [TimeStampedValue(1e12, float("nan"))]}},
    ],
)
def test_odd_evidence_is_no_error(clock: Clock, raw: Any) -> None:
    policy = _policy()
    for _ in range(30):
        clock.now += 1
        decided, _ = policy(_contexts(clock, raw, running=2, target=2, ongoing=8.0))
    assert decided[_LLAVA] == 2


def test_a_clock_that_jumps_back_stops_nothing(clock: Clock) -> None:
    policy = _policy()
    assert _rise(policy, clock, 60, 7.0) == 4
    clock.now -= 3600
    assert _rise(policy, clock, 90, 7.0, target=4) == 4
    assert _rise(policy, clock, 90, 14.0, target=4) >= 7


def test_a_model_without_a_context_is_left_out(clock: Clock) -> None:
    assert _policy()({DeploymentID(ROUTER, "argus"): context(ROUTER, clock)}) == ({}, {})


def test_bounds_of_the_plan_hold(clock: Clock) -> None:
    few = CascadePolicy(**plan(replace(RULE, max_replicas=3)).arguments(), router=ROUTER)
    assert _rise(few, clock, 60, 50.0) == 3
