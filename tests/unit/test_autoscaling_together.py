"""One decision that every deployment asks for its part, as Ray's controller does: one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from ray import cloudpickle
from ray.serve import autoscaling_policy as rays
from ray.serve.config import AutoscalingPolicy

from serve.autoscaling import evidence, ray_policy, together
from serve.autoscaling.plan import DEPLOYMENT_POLICY, Plan
from serve.placement import ROUTER
from tests.unit.autoscaled import RULE, plan
from tests.unit.autoscaling_contexts import Clock, context, said


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(ray_policy, "time", made)
    monkeypatch.setattr(together, "time", made)
    monkeypatch.setattr(together, "_of_application", {})
    return made


def asked(of: Plan) -> Any:
    """A deployment's policy as the controller has it: pickled by value, so no two share a class, in Ray's wrapper."""
    arguments = of.arguments() | {"router": ROUTER}
    given = AutoscalingPolicy(policy_function=DEPLOYMENT_POLICY, policy_kwargs=arguments)
    definition = given.get_serialized_policy_def()
    assert definition
    return rays._apply_autoscaling_config(cloudpickle.loads(definition)(**given.policy_kwargs))


class Controller:
    """Asks each deployment in turn, ten times a second."""

    def __init__(self, clock: Clock, of: Plan) -> None:
        self.clock = clock
        self.target = {ROUTER: 2, "llava": 1}
        self.policies: dict[str, Any] = {}
        self.become(of)

    def become(self, of: Plan) -> None:
        """An update changed what the policy is told."""
        self.policies = {name: asked(of) for name in self.target}

    def pass_time(self, seconds: int, per_s: float) -> None:
        for tick in range(seconds * 10):
            self.clock.now += 0.1
            raw = said(self.clock, **{evidence.came("llava"): per_s * (tick // 10)})
            for name, policy in self.policies.items():
                count = self.target[name]
                made = context(name, self.clock, running=count, target=count, raw=raw if name == ROUTER else None)
                self.target[name], _ = policy(made)


@pytest.fixture
def controller(clock: Clock) -> Iterator[Controller]:
    yield Controller(clock, plan())


def test_what_one_deployment_hears_decides_of_another(controller: Controller) -> None:
    controller.pass_time(60, 7.0)
    assert controller.target == {ROUTER: 2, "llava": 4}, "7 calls a second at 2 each; the router's number is not ours"


def test_a_changed_plan_holds_from_then_on(controller: Controller) -> None:
    controller.pass_time(60, 7.0)
    controller.become(plan(replace(RULE, max_replicas=6)))
    controller.pass_time(60, 50.0)
    assert controller.target["llava"] == 6


def test_a_deployment_that_is_asked_for_no_more_is_not_decided_on(controller: Controller, clock: Clock) -> None:
    controller.pass_time(60, 7.0)
    del controller.policies["llava"]
    controller.pass_time(30, 50.0)
    controller.policies["llava"] = asked(plan())
    assert controller.policies["llava"](context("llava", clock, running=4, target=4))[0] == 4


def test_applications_decide_each_for_itself(controller: Controller, clock: Clock) -> None:
    controller.pass_time(60, 7.0)
    other = context("llava", clock)
    other.app_name = "other"
    assert asked(plan())(other)[0] == 1
