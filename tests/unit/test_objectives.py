"""The `objectives` section: what it takes, and what it says of mistakes."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.routing import WebSocketRoute

from deployments.replica import SECONDS
from serve.config.load import PROFILES, ConfigErrors, load_profile, parse
from serve.config.objectives import Objectives
from serve.config.routes import PROBES, ROUTES
from serve.latencies import LATENCIES_S, LONGEST_WAIT_S
from serve.protocol.oip_grpc import GrpcSkin
from serve.protocol.routes import PlainRoute
from tests.unit.fakes import Site

CASCADES: dict[str, Any] = {
    "two": {
        "answer": "label",
        "labels": ["a", "b"],
        "steps": [
            {"name": "first", "use": "clip", "task": "classify", "accept": {"rule": "confidence", "at_least": 0.9}},
            {"name": "second", "use": "clip", "task": "classify"},
        ],
        "shadow": {"share": 0.1},
    },
    "one": {
        "answer": "label",
        "labels": ["a", "b"],
        "steps": [{"name": "only", "use": "clip", "task": "classify"}],
    },
}


def file(**objectives: Any) -> dict[str, Any]:
    return {
        "name": "test",
        "node_pools": {"local": {}},
        "models": {"clip": {"kind": "clip", "checkpoint": "demo:clip"}},
        "cascades": CASCADES,
        "objectives": objectives,
    }


def problems(**objectives: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigErrors) as caught:
        parse(file(**objectives))
    return caught.value.problems


@pytest.mark.parametrize(
    "objective",
    [
        {"kind": "availability", "target": 0.999},
        {"kind": "availability", "route": "ModelInfer", "target": 0.999},
        {"kind": "latency", "route": "/v1/indexes/{name}/search", "under_s": 0.15, "target": 0.99},
        {"kind": "latency", "cascade": "one", "under_s": 30, "target": 0.99},
        {"kind": "escalation", "cascade": "two", "target": 0.9},
        {"kind": "agreement", "cascade": "two", "target": 0.9},
    ],
)
def test_what_may_be_promised(objective: dict[str, Any]) -> None:
    assert "it" in parse(file(slos={"it": objective})).objectives.slos


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        ({"kind": "availability", "target": 1}, "target: got 1; input should be less than 1"),
        ({"kind": "speed", "target": 0.9}, "kind: got 'speed'; input should be 'availability', 'latency'"),
        ({"kind": "latency", "target": 0.9, "route": "/v1/classify"}, "latency and under_s go together"),
        ({"kind": "availability", "target": 0.9, "under_s": 1}, "latency and under_s go together"),
        ({"kind": "latency", "target": 0.9, "under_s": 1}, "name a route or a cascade"),
        ({"kind": "escalation", "target": 0.9}, "cascade is required"),
        ({"kind": "agreement", "target": 0.9, "route": "/v1/classify"}, "cascade is required"),
        ({"kind": "availability", "target": 0.9, "route": "/v1/vqa", "cascade": "two"}, "of one of them"),
        ({"kind": "availability", "target": 0.9, "route": "/v1/clasify"}, "did you mean '/v1/classify'?"),
        ({"kind": "availability", "target": 0.9, "route": "/v1/healthz"}, "no route that is counted"),
        ({"kind": "availability", "target": 0.9, "cascade": "three"}, "must be a cascade of this file: two, one"),
        ({"kind": "escalation", "target": 0.9, "cascade": "one"}, "which has one step"),
        ({"kind": "agreement", "target": 0.9, "cascade": "one"}, "whose shadow.share is 0"),
        ({"kind": "latency", "target": 0.9, "cascade": "one", "under_s": 0.25}, "got 0.25, at which latencies are not"),
        ({"kind": "latency", "target": 0.9, "cascade": "one", "under_s": 0.25}, "it must be 0.2 or 0.3"),
        ({"kind": "latency", "target": 0.9, "cascade": "one", "under_s": 9999}, "it must be 300"),
        ({"kind": "latency", "target": 0.9, "cascade": "one", "under_s": 1e-5}, "it must be 0.001"),
        ({"kind": "availability", "target": 0.9, "window": 3}, "window: unknown key"),
    ],
)
def test_what_is_wrong_is_said_with_key_value_and_what_is_right(objective: dict[str, Any], said: str) -> None:
    found = problems(slos={"it": objective})
    assert len(found) == 1
    assert found[0].startswith("objectives.slos.it") and said in found[0]


@pytest.mark.parametrize(
    "section",
    [
        {"window_days": 3},
        {"min_requests": -1},
        {"alerts": {"budget_left_share": 2}},
        {"alerts": {"queue_wait_s": LONGEST_WAIT_S}},
    ],
)
def test_bounds_of_the_section(section: dict[str, Any]) -> None:
    assert problems(**section)[0].startswith("objectives.")


def test_without_the_section_nothing_is_promised() -> None:
    assert Objectives().slos == {}


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_promises_something_of_the_service_and_of_moderation(profile: str) -> None:
    slos = load_profile(profile).objectives.slos.values()
    assert {slo.kind for slo in slos if slo.cascade == "moderation"} == {
        "availability",
        "latency",
        "escalation",
        "agreement",
    }
    assert any(slo.route is None and slo.cascade is None for slo in slos)


def test_routes_that_may_be_named_are_those_that_are_served(site: Site) -> None:
    served = {
        route.path
        for route in site.app._app.router.routes  # type: ignore[attr-defined]
        if isinstance(route, PlainRoute | WebSocketRoute)
    }
    methods = {name for name, method in vars(GrpcSkin).items() if name[0].isupper() and method.__name__ == name}
    assert set(ROUTES) | set(PROBES) == served | methods - {"Watch"} | {"/docs", "/openapi.json"}
    assert not set(ROUTES) & set(PROBES)


def test_a_wait_that_nobody_could_see_cannot_be_set() -> None:
    """Beyond the last boundary of a histogram each quantile is that boundary: an alert at 10 s or more never fired."""
    assert SECONDS[-1] == LONGEST_WAIT_S


def test_latencies_rise() -> None:
    assert list(LATENCIES_S) == sorted(set(LATENCIES_S))
