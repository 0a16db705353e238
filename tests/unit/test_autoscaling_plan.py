"""From the cluster file to what the policy knows and what Ray Serve is told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import ServeApplicationSchema

from serve.autoscaling.plan import Plan, from_arguments, in_use, plan
from serve.config.cluster import ClusterFile
from serve.config.load import ConfigErrors, load_profile, parse
from serve.placement import ROUTER, deployment_policy_options, policy_options, replica_options

_MODELS: dict[str, Any] = {
    "clip": {"kind": "clip", "checkpoint": "demo:clip"},
    "llava": {
        "kind": "llava",
        "checkpoint": "demo:llava",
        "autoscaling": {"min_replicas": 1, "max_replicas": 4, "upscale_delay_s": 7, "downscale_delay_s": 70},
    },
    "blip2": {"kind": "blip2", "checkpoint": "demo:blip2"},
}


_SURE = {"rule": "confidence", "at_least": 0.9}


def _cluster(**sections: Any) -> ClusterFile:
    data = {
        "name": "test",
        "node_pools": {"local": {"cpus": 16}},
        "models": _MODELS,
        "cascades": {
            "moderation": {
                "answer": "label",
                "labels": ["red", "black"],
                "calibration": sections.pop("calibration", None),
                "steps": [
                    {"name": "screen", "use": "clip", "task": "classify", "accept": _SURE},
                    {"name": "analyse", "use": "llava", "task": "choose"},
                ],
            },
            "vqa": {
                "answer": "text",
                "steps": [
                    {"name": "quick", "use": "blip2", "task": "answer", "accept": {"rule": "always"}},
                    {"name": "careful", "use": "llava", "task": "answer"},
                ],
            },
        },
        **sections,
    }
    return parse(data)


def _with(**llava: Any) -> dict[str, Any]:
    return _MODELS | {"llava": _MODELS["llava"] | {"autoscaling": llava}}


def test_only_what_may_change_is_in_the_plan() -> None:
    found = plan(_cluster())
    assert set(found.models) == {"llava"}
    assert [(step.cascade, step.name, step.first) for step in found.steps] == [
        ("moderation", "analyse", "screen"),
        ("vqa", "careful", "quick"),
    ]
    assert [step.share for step in found.steps] == [None, 0.0], "a step that always accepts hands nothing on"
    assert found.models["llava"].upscale_delay_s == 7
    assert found.models["llava"].start_s == 60


def test_a_calibration_says_what_is_handed_on() -> None:
    demo = load_profile("demo")
    evidence = demo.cascades["moderation"].evidence
    assert evidence is not None
    screen = evidence.steps["screen"]
    llava = demo.models["llava"].model_copy(
        update={"autoscaling": demo.models["llava"].autoscaling.model_copy(update={"max_replicas": 3})}
    )
    step = next(
        one
        for one in plan(demo.model_copy(update={"models": {**demo.models, "llava": llava}})).steps
        if one.cascade == "moderation"
    )
    at = next(point for point in screen.curve if point.threshold == pytest.approx(screen.threshold))
    assert step.share == pytest.approx(1 - at.accepted)


def test_it_survives_json() -> None:
    found = plan(_cluster())
    arguments = json.loads(json.dumps(found.arguments()))
    assert from_arguments(**arguments) == found
    assert isinstance(found, Plan)


def test_a_models_own_words_come_before_the_files() -> None:
    found = plan(
        _cluster(
            models=_with(max_replicas=3, start_s=200, calls_per_s=4),
            autoscaling={"start_s": 90, "max_wait_s": 0.5, "window_s": 120},
        )
    )
    llava = found.models["llava"]
    assert (llava.start_s, llava.calls_per_s, llava.max_wait_s, found.window_s) == (200, 4, 0.5, 120)


def test_ray_applies_no_delay_of_its_own_beside_a_policy_that_has_them() -> None:
    ours = replica_options(_cluster(), "llava")["autoscaling_config"]
    rays = replica_options(_cluster(autoscaling={"policy": "queue"}), "llava")["autoscaling_config"]
    assert (ours["upscale_delay_s"], ours["downscale_delay_s"]) == (0, 0)
    assert (rays["upscale_delay_s"], rays["downscale_delay_s"]) == (7, 70)
    for options in (ours, rays):
        assert AutoscalingConfig(**options).max_replicas == 4


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_router_scales_between_equal_bounds_so_that_ray_passes_on_what_it_tells() -> None:
    scaling = AutoscalingConfig(**replica_options(_cluster(router={"replicas": 3}), ROUTER)["autoscaling_config"])
    assert (scaling.min_replicas, scaling.max_replicas) == (3, 3)
    assert scaling.metrics_interval_s < scaling.look_back_period_s, "or Ray warns"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_ray_is_given_the_policy_only_where_it_decides_something() -> None:
    application = ServeApplicationSchema(import_path="a:b", **policy_options(_cluster()))
    assert application.autoscaling_policy is not None
    for name in (ROUTER, "llava"):
        options = replica_options(_cluster(), name)["autoscaling_config"] | deployment_policy_options(_cluster())
        assert not AutoscalingConfig(**options).policy.is_default_policy_function()
    for cluster in (_cluster(autoscaling={"policy": "queue"}), load_profile("demo")):
        assert not in_use(cluster)
        assert policy_options(cluster) == deployment_policy_options(cluster) == {}
        assert replica_options(cluster, ROUTER) == {"num_replicas": 1}


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"autoscaling": {"policy": "magic"}}, ["autoscaling.policy: got 'magic'", "'queue' or 'cascade'"]),
        ({"autoscaling": {"start": 5}}, ["autoscaling.start: unknown key", "start_s"]),
        ({"autoscaling": {"start_s": 0}}, ["autoscaling.start_s: got 0", "greater than 0"]),
        ({"autoscaling": {"window_s": 1}}, ["autoscaling.window_s: got 1", "greater than or equal to 10"]),
        (
            {"models": _with(max_replicas=3, calls_per_s=4), "autoscaling": {"policy": "queue"}},
            ["models.llava.autoscaling.calls_per_s: got 4", "policy 'queue' does not look at", "policy: cascade"],
        ),
        ({"models": _with(cold_queue=0)}, ["models.llava.autoscaling.cold_queue: got 0"]),
    ],
)
def test_what_is_wrong_is_said_with_its_key(sections: dict[str, Any], said: list[str]) -> None:
    with pytest.raises(ConfigErrors) as caught:
        _cluster(**sections)
    for part in said:
        assert part in str(caught.value)
