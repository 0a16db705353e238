"""What a router counts for the autoscaler: what came, what was escalated, what was shed, and what the cache had."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from contextvars import Context, copy_context
from typing import Any

import pytest

from deployments.generation.messages import ChatRequest, ImagePart, Message, Sampling, Text
from deployments.messages import EncodedImage
from serve.autoscaling import evidence
from serve.autoscaling.demand import CountedGuardMetrics, Demand
from serve.context import RequestContext
from serve.errors import Overloaded, Unavailable
from serve.resilience.admission import Admission
from serve.resilience.build import build_guard
from serve.resilience.cache_key import CacheKeys, identities_of, kept
from serve.routed_calls import RoutedCalls
from tests.unit.cascade_fakes import Says, guard
from tests.unit.cascade_site import CASCADES, MODELS
from tests.unit.fakes import FakeGenerator, FakeModel, cluster, png
from tests.unit.resilience_fakes import Clock, context
from tests.unit.test_cascade_service import BUSY, GEARS, SURE, UNSURE, Made


def _demand(weight: float = 1.0) -> Demand:
    return Demand({"clip", "llava"}, lambda: weight)


def _watched(demand: Demand, cascade: dict[str, Any], **says: list[Says]) -> Made:
    """A cascade service whose steps are counted."""
    made = Made(cascade, **says)
    for ready in made.service._ready.values():
        ready.runner._entered = lambda step, plain: demand.entered("it", step, plain)
    return made


async def test_every_step_that_a_request_enters_is_counted() -> None:
    demand = _demand()
    made = _watched(demand, guard(), clip=[SURE, UNSURE, UNSURE], llava=[Says("gun"), Says("gun")])
    for request in range(3):
        await made.ask(request_id=f"r{request}")
    totals = demand.totals()
    assert totals[evidence.step("it", "screen")] == 3
    assert totals[evidence.step("it", "analyse")] == 2
    assert totals[evidence.plain("it", "analyse")] == 2


async def test_in_a_gear_only_the_load_is_counted() -> None:
    demand = _demand()
    made = _watched(demand, guard(gears=GEARS), clip=[UNSURE], llava=[Says("gun")])
    made.load = BUSY
    await made.ask()
    totals = demand.totals()
    assert totals[evidence.step("it", "screen")] == 1
    assert evidence.plain("it", "screen") not in totals


def test_each_admitted_request_counts_for_those_that_were_shed() -> None:
    demand = _demand(weight=4.0)
    demand.entered("moderation", "screen", True)
    demand.called("llava")
    totals = demand.totals()
    assert totals[evidence.step("moderation", "screen")] == totals[evidence.came("llava")] == 4.0
    assert totals[evidence.plain("moderation", "screen")] == 1.0, "a share is one of requests that ran"


def test_hosted_models_are_not_counted() -> None:
    demand = _demand()
    before = demand.totals()
    demand.called("gpt-4o")
    demand.answered("gpt-4o", 1.0)
    demand.waited("gpt-4o", 1.0)
    demand.cache("gpt-4o", hit=True)
    assert demand.totals() == before


def test_there_is_something_to_tell_before_the_first_request() -> None:
    assert _demand().totals()[evidence.came("llava")] == 0.0


class _Calls:
    """Calls of fakes, counted as in the router."""

    def __init__(self, **resilience: Any) -> None:
        config = cluster(models=MODELS, cascades=CASCADES, resilience=resilience)
        self.demand, self.llava = _demand(), FakeGenerator()
        handles: dict[str, Any] = {"clip": FakeModel(), "llava": self.llava}
        counted = CountedGuardMetrics(self.demand)
        made = build_guard(config, counted, lambda seconds, usual_s: None, self.demand.called)
        self.calls = RoutedCalls(handles, {}, made, CacheKeys(identities_of(config)), kept(config))

    async def ask(self, image: bytes) -> None:
        parts = (ImagePart(EncodedImage(image)), Text("What is it?"))
        await self.calls.chat("llava", ChatRequest((Message("user", parts),), Sampling(temperature=0.0)), context())


async def test_the_cache_is_told_apart_from_the_model() -> None:
    made = _Calls()
    for _ in range(3):
        await made.ask(png())
    totals = made.demand.totals()
    assert totals[evidence.asked("llava")] == 3
    assert totals[evidence.missed("llava")] == totals[evidence.came("llava")] == totals[evidence.done("llava")] == 1
    assert totals[evidence.busy("llava")] > 0


async def test_calls_that_fail_came_and_were_not_answered() -> None:
    made = _Calls(targets={"llava": {"retries": {"attempts": 1}}}, cache={"enabled": False})
    made.llava.script = [(0, Unavailable("gone"))]
    with pytest.raises(Unavailable):
        await made.ask(png())
    totals = made.demand.totals()
    assert (totals[evidence.came("llava")], totals[evidence.done("llava")]) == (1, 0)


def test_a_request_stands_for_those_of_its_lane_that_were_shed() -> None:
    """A lane whose calls wait for long sheds; what gets in counts for all, and other lanes count for themselves."""
    clock = Clock()
    admission = Admission(1000, clock=clock)
    weights: list[float] = []
    with ExitStack() as inside:
        inside.enter_context(admission.enter(RequestContext("first", "alice", 1e9), "/v1/chat"))
        for number in range(600):
            clock.now += 0.05
            copy_context().run(_one, admission, number, weights)
    assert weights[0] == pytest.approx(1.0)
    assert 2.0 < weights[-1] <= 20.0
    assert Context().run(admission.weight) == 1.0, "outside of any request"


def _one(admission: Admission, number: int, weights: list[float]) -> None:
    with suppress(Overloaded), admission.enter(RequestContext(f"r{number}", "alice", 1e9), "/v1/chat"):
        admission.waited(1.0)
        weights.append(admission.weight())
