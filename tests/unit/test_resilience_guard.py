"""The guard as a whole: its order, what each stage refuses, and that nothing is left when callers go away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest

from deployments.generation.messages import ChatEvent
from serve.calls import Usage
from serve.errors import (
    ArgusError,
    BudgetExceeded,
    ContextTooLong,
    DeadlineExceeded,
    Forbidden,
    InvalidRequest,
    Overloaded,
    RateLimited,
    Unavailable,
)
from serve.resilience.guard import Guard, Job, StreamJob
from tests.unit.resilience_fakes import COST, Remembers, Script, TextCodec, context, guard, turns

TEXT = TextCodec()
FAST = {"first_pause_s": 0.0, "max_pause_s": 0.0}


def targets(**theirs: Any) -> dict[str, Any]:
    """A `resilience` section: quick retries, and no hedges unless they are asked for."""
    return {"targets": {"theirs": {"hedge": {"enabled": False}, "retries": FAST, **theirs}, "ours": {"retries": FAST}}}


def job(script: Script, target: str = "theirs", key: bytes | None = None, **fields: Any) -> Job[Any]:
    return Job(target, script, cache_key=key, codec=TEXT, **fields)


def idle(made: Guard) -> bool:
    """Nothing is in progress, waiting, or reserved by a breaker's probe."""
    assert made._answers is not None
    quiet = all(target.in_flight == 0 and target.waiting == 0 for target in made._targets.values())
    return quiet and made._answers.in_flight == 0


async def test_an_answer_says_how_it_was_come_by() -> None:
    made = guard()
    called = await made.run(job(Script(usage=COST), key=b"k"), context())
    assert (called.value, called.usage, called.cached, called.attempts, called.hedged) == (
        "answer",
        COST,
        False,
        1,
        False,
    )
    again = await made.run(job(Script(), key=b"k"), context())
    assert (again.value, again.usage, again.cached, again.attempts) == ("answer", Usage(), True, 0)


async def test_no_attempt_after_the_deadline() -> None:
    script, recorder = Script(), Remembers()
    with pytest.raises(DeadlineExceeded):
        await guard(recorder).run(job(script), context(left_s=0))
    assert script.calls == 0
    assert recorder.counts["refused", "deadline"] == 1


async def test_a_thousand_identical_requests_cause_one_call() -> None:
    release, recorder = asyncio.Event(), Remembers()
    script = Script(last=release, usage=COST)
    made = guard(recorder, resilience=targets())
    tasks = [asyncio.create_task(made.run(job(script, key=b"k"), context())) for _ in range(1_000)]
    await turns()
    release.set()
    calls = await asyncio.gather(*tasks)
    assert script.calls == 1
    assert {call.value for call in calls} == {"late answer"}
    assert sum(call.usage.usd for call in calls) == pytest.approx(COST.usd)
    assert recorder.counts["joined",] == 999
    assert idle(made)


async def test_whoever_has_time_left_does_not_fail_with_whoever_began() -> None:
    made = guard(resilience=targets())
    release = asyncio.Event()
    script = Script([release], "second answer")
    hasty = asyncio.create_task(made.run(job(script, key=b"k"), context(left_s=0.05)))
    await turns()
    patient = asyncio.create_task(made.run(job(script, key=b"k"), context()))
    with pytest.raises(DeadlineExceeded):
        await hasty
    assert (await patient).value == "second answer"
    assert idle(made)


async def test_failures_that_would_be_the_same_are_not_asked_for_again() -> None:
    made, script = guard(resilience=targets()), Script(last=ContextTooLong("9 tokens"))
    for _ in range(3):
        with pytest.raises(ContextTooLong, match="9 tokens"):
            await made.run(job(script, key=b"k"), context())
    assert script.calls == 1


@pytest.mark.parametrize("error", [InvalidRequest("x"), Forbidden("x"), ContextTooLong("x")])
async def test_what_cannot_get_better_is_tried_once(error: ArgusError) -> None:
    script = Script(last=error)
    with pytest.raises(type(error)):
        await guard(resilience=targets()).run(job(script), context())
    assert script.calls == 1


@pytest.mark.parametrize(
    ("target", "error", "calls"),
    [
        ("ours", Unavailable("x"), 4),
        ("ours", Overloaded("x"), 1),
        ("theirs", Unavailable("x"), 4),
        ("theirs", DeadlineExceeded("x"), 4),
    ],
)
async def test_what_can_get_better_is_tried_again(target: str, error: ArgusError, calls: int) -> None:
    script, recorder = Script(last=error), Remembers()
    with pytest.raises(type(error)):
        await guard(recorder, resilience=targets()).run(job(script, target), context())
    assert script.calls == calls
    assert recorder.counts["retried",] == calls - 1


async def test_a_retry_that_succeeds_is_counted() -> None:
    called = await guard(resilience=targets()).run(job(Script([Unavailable("x")] * 2)), context())
    assert (called.value, called.attempts) == ("answer", 3)


async def test_a_429_is_tried_again_after_its_time() -> None:
    made = guard(resilience=targets())
    script = Script([RateLimited("x", retry_after_s=0.02)])
    assert (await made.run(job(script), context())).attempts == 2
    late = Script([RateLimited("x", retry_after_s=60.0)])
    with pytest.raises(RateLimited):
        await made.run(job(late), context(left_s=5))
    assert late.calls == 1


async def test_with_a_fallback_the_first_failure_is_the_answer() -> None:
    script = Script(last=Unavailable("x"))
    with pytest.raises(Unavailable):
        await guard(resilience=targets()).run(job(script), context(), fallback=True)
    assert script.calls == 1


async def test_retries_stop_where_their_budget_does() -> None:
    made = guard(resilience=targets(retries={**FAST, "floor_per_s": 0.5, "budget": 0.0}, breaker={"enabled": False}))
    script = Script(last=Unavailable("x"))
    for _ in range(10):
        with pytest.raises(Unavailable):
            await made.run(job(script), context())
    assert script.calls == 10 + 5


async def test_an_open_breaker_refuses_without_an_attempt() -> None:
    recorder = Remembers()
    made = guard(recorder, resilience=targets())
    script = Script(last=Unavailable("x"))
    for _ in range(5):
        with pytest.raises(Unavailable):
            await made.run(job(script), context(), fallback=True)
    for fallback in (True, False):
        with pytest.raises(Unavailable) as caught:
            await made.run(job(script), context(), fallback=fallback)
        assert caught.value.code == "breaker_open"
        assert caught.value.retry_after_s == pytest.approx(10, abs=1)
    assert script.calls == 5
    assert recorder.counts["breaker", "open"] == 1
    assert recorder.counts["refused", "breaker"] == 2


async def test_an_open_breaker_of_ours_lets_pass_who_has_no_other_way() -> None:
    made = guard(resilience=targets())
    script = Script([Unavailable("x")] * 5)
    for _ in range(5):
        with pytest.raises(Unavailable):
            await made.run(job(script, "ours"), context(), fallback=True)
    with pytest.raises(Unavailable, match="left alone"):
        await made.run(job(script, "ours"), context(), fallback=True)
    assert (await made.run(job(script, "ours"), context())).value == "answer"


async def test_a_clients_mistakes_do_not_open_a_breaker() -> None:
    made = guard(resilience=targets())
    script = Script([InvalidRequest("x")] * 20)
    for _ in range(20):
        with pytest.raises(InvalidRequest):
            await made.run(job(script), context())
    assert (await made.run(job(script), context())).value == "answer"


async def test_a_rest_is_waited_for_only_without_another_way() -> None:
    made = guard(resilience=targets())
    with pytest.raises(RateLimited):
        await made.run(job(Script([RateLimited("x", retry_after_s=0.05)])), context(), fallback=True)
    script = Script()
    with pytest.raises(RateLimited) as caught:
        await made.run(job(script), context(), fallback=True)
    assert (caught.value.code, script.calls) == ("provider_rate_limited", 0)
    assert (await made.run(job(script), context())).value == "answer"


async def test_a_provider_is_not_asked_beyond_the_money() -> None:
    recorder = Remembers()
    made = guard(recorder, resilience={**targets(), "usd_per_day": 1.0}, tenants={"poor": {"usd_per_day": 0.1}})
    script = Script(usage=Usage(1, 1, 0.2))
    await made.run(job(script, estimate=COST), context())
    assert recorder.left == {"*": pytest.approx(0.8)}
    with pytest.raises(BudgetExceeded, match="the budget of poor"):
        await made.run(job(script, estimate=COST), context("poor"))
    await made.run(job(script, estimate=COST), context())
    assert (await made.run(job(Script(), "ours", estimate=COST), context("poor"))).value == "answer"
    assert script.calls == 2
    assert recorder.usd == pytest.approx(0.4)
    assert recorder.counts["refused", "budget"] == 1


@pytest.mark.parametrize(
    ("outcome", "cost"), [(Unavailable("x"), 0.0), (InvalidRequest("x"), 0.0), (DeadlineExceeded("x"), 0.4)]
)
async def test_a_failed_attempt_costs_nothing_unless_nobody_knows(outcome: ArgusError, cost: float) -> None:
    recorder = Remembers()
    made = guard(recorder, resilience={**targets(), "usd_per_day": 1.0})
    with pytest.raises(type(outcome)):
        await made.run(job(Script(last=outcome), estimate=COST), context(), fallback=True)
    assert recorder.left["*"] == pytest.approx(1 - cost)


async def test_a_tenants_rates_count_calls_and_settle_tokens() -> None:
    recorder = Remembers()
    made = guard(recorder, resilience=targets(), tenants={"default": {"tokens_per_minute": 1_000}})
    script = Script(usage=Usage(10, 10))
    for _ in range(5):
        await made.run(job(script, estimate=Usage(500, 400)), context())
    greedy = Script(usage=Usage(800, 90))
    await made.run(job(greedy, "ours"), context())
    with pytest.raises(RateLimited) as caught:
        await made.run(job(script, estimate=Usage(10, 1)), context())
    assert caught.value.code == "rate_limited"
    assert caught.value.retry_after_s is not None
    await made.run(job(script, estimate=Usage(10, 1)), context("another"))
    assert recorder.counts["refused", "tenant_limit"] == 1


async def test_a_providers_rate_is_waited_for_or_refused() -> None:
    made = guard(resilience=targets(requests_per_minute=600))
    script = Script()
    with pytest.raises(RateLimited) as caught:
        for _ in range(2_000):
            await made.run(job(script), context(), fallback=True)
    assert script.calls >= 600
    assert caught.value.code == "provider_rate_limited"
    assert (await made.run(job(script), context())).value == "answer"


async def test_a_hang_costs_its_own_time_only_where_another_way_waits() -> None:
    made = guard(resilience=targets())
    for _ in range(30):
        await made.run(job(Script()), context())
    hung = Script(last=asyncio.Event())
    with pytest.raises(DeadlineExceeded, match="theirs did not answer within"):
        await made.run(job(hung), context(left_s=3_600), fallback=True)
    assert (hung.calls, hung.running) == (1, 0)


async def test_beside_another_way_a_hedge_has_no_time_of_its_own() -> None:
    made = guard(resilience={"targets": {"theirs": {"retries": FAST}}})
    for _ in range(60):
        await made.run(job(Script()), context())
    hung = Script(last=asyncio.Event())
    with pytest.raises(DeadlineExceeded, match="did not answer within"):
        await made.run(job(hung), context(left_s=3_600), fallback=True)
    assert (hung.calls, hung.running) == (2, 0)
    assert idle(made)


async def test_a_late_call_is_hedged_and_only_a_share_of_them() -> None:
    recorder = Remembers()
    made = guard(recorder, resilience={"targets": {"theirs": {"retries": FAST, "breaker": {"enabled": False}}}})
    for _ in range(60):
        await made.run(job(Script()), context())
    called = await made.run(job(Script([asyncio.Event()])), context())
    assert (called.value, called.attempts, called.hedged) == ("answer", 2, True)
    assert recorder.counts["hedged", True] == 1
    alone = Script([asyncio.Event()])
    with pytest.raises(DeadlineExceeded):
        await made.run(job(alone, idempotent=False), context(left_s=0.05))
    assert alone.calls == 1
    hedges = 0
    for _ in range(8):
        script = Script([asyncio.Event()])
        try:
            hedges += (await made.run(job(script), context(left_s=0.03))).hedged
        except DeadlineExceeded:
            assert script.calls == 1
    assert hedges <= 3
    assert idle(made)


@pytest.mark.parametrize("stage", ["attempt", "waiting", "retry pause", "flight", "provider rate"])
async def test_a_caller_that_goes_away_leaves_nothing(stage: str) -> None:
    recorder = Remembers()
    places = {"min_limit": 1, "initial_limit": 1, "max_limit": 1}
    theirs: dict[str, Any] = {"concurrency": places} if stage == "waiting" else {}
    if stage == "provider rate":
        theirs = {"requests_per_minute": 1}
    made = guard(recorder, resilience={**targets(**theirs), "usd_per_day": 10.0})
    script = Script(last=asyncio.Event())
    if stage == "retry pause":
        script.last = RateLimited("x", retry_after_s=20.0)
    if stage == "provider rate":
        await made.run(job(Script()), context())
    key = b"k" if stage == "flight" else None
    tasks = [asyncio.create_task(made.run(job(script, key=key, estimate=COST), context(left_s=90))) for _ in range(3)]
    await turns(40)
    assert not any(task.done() for task in tasks)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await turns()
    assert idle(made)
    assert script.running == 0
    sent = script.calls if stage in ("attempt", "waiting", "flight") else 0
    assert recorder.left["*"] == pytest.approx(10 - sent * COST.usd)


class Stream:
    """A stream's attempts: each yields its items, raising those that are errors."""

    def __init__(self, *attempts: list[Any]) -> None:
        self.attempts = attempts
        self.calls = self.running = 0

    async def __call__(self, timeout_s: float) -> AsyncGenerator[ChatEvent | Usage, None]:
        items = self.attempts[min(self.calls, len(self.attempts) - 1)]
        self.calls += 1
        self.running += 1
        try:
            for item in items:
                if isinstance(item, BaseException):
                    raise item
                if isinstance(item, asyncio.Event):
                    await item.wait()
                else:
                    yield item if isinstance(item, Usage) else ChatEvent(0, item)
        finally:
            self.running -= 1


async def read(made: Guard, stream: Stream, estimate: Usage = COST, **options: Any) -> str:
    async with aclosing(made.stream(StreamJob("theirs", stream, estimate), context(), **options)) as events:
        return "".join([event.text async for event in events])


async def test_a_stream_is_settled_by_its_usage_and_tried_again_before_its_first_event_only() -> None:
    recorder = Remembers()
    made = guard(recorder, resilience={**targets(), "usd_per_day": 2.0})
    stream = Stream([Unavailable("x")], ["a", "b", Usage(1, 2, 0.1)])
    assert await read(made, stream) == "ab"
    assert stream.calls == 2
    assert recorder.left["*"] == pytest.approx(1.9)
    cut = Stream(["a", Unavailable("cut")])
    with pytest.raises(Unavailable, match="cut"):
        await read(made, cut)
    assert cut.calls == 1
    assert recorder.left["*"] == pytest.approx(1.5)  # its cost is not known: counted whole
    with pytest.raises(Unavailable):
        await read(made, Stream([Unavailable("x")]), fallback=True)
    assert idle(made)


async def test_a_reader_that_goes_away_ends_the_stream() -> None:
    made = guard(resilience=targets())
    stream = Stream(["a", asyncio.Event()])
    async with aclosing(made.stream(StreamJob("theirs", stream, COST), context())) as events:
        assert (await anext(events)).text == "a"
        assert not idle(made)
    assert stream.running == 0
    assert idle(made)


async def test_a_defect_of_ours_is_not_hidden() -> None:
    made = guard(resilience=targets())
    with pytest.raises(ZeroDivisionError):
        await made.run(job(Script(last=ZeroDivisionError("x"))), context())
    assert idle(made)
