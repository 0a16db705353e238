"""Spans of calls: what the guard does with each, and the steps of cascades that make them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import pytest
from opentelemetry.trace import StatusCode

from deployments.generation.messages import ChatEvent
from serve import tracing
from serve.calls import Usage
from serve.errors import BudgetExceeded, ModelFailed, Unavailable
from serve.resilience.jobs import Job, StreamJob
from tests.support.spans import SAMPLED, TRACE, Recorded, attribute, id_of, parent_of, recording, trace_of
from tests.unit import resilience_fakes as fakes
from tests.unit.cascade_site import CASCADES, CascadeSite
from tests.unit.fakes import png


@pytest.fixture
def spans() -> Iterator[Recorded]:
    with recording() as recorded:
        yield recorded


async def traced(guard: Any, attempt: Any, fallback: bool = False, target: str = "theirs", **job: Any) -> Any:
    """Runs a job within a sampled request."""
    with tracing.root("request"):
        return await guard.run(Job(target, attempt, **job), fakes.context(), fallback=fallback)


async def test_each_attempt_has_a_span(spans: Recorded) -> None:
    script = fakes.Script([Unavailable("busy", retry_after_s=0.0), "answer"], usage=Usage(10, 5, 0.25))
    await traced(fakes.guard(), script)
    call = spans.one("call", model="theirs")
    assert spans.below(call) == ["wait", "attempt", "pause", "wait", "attempt"]
    assert attribute(call, "argus.attempts") == 2
    assert attribute(call, "argus.usd") == 0.25
    assert call.status.status_code is StatusCode.UNSET
    assert attribute(spans.one("attempt", attempt=1), "error.type") == "unavailable"
    assert attribute(spans.one("attempt", attempt=2), "error.type") is None


async def test_a_refused_call_says_by_what(spans: Recorded) -> None:
    guard = fakes.guard(resilience={"usd_per_day": 0.01})
    with pytest.raises(BudgetExceeded):
        await traced(guard, fakes.Script(), estimate=Usage(10, 10, 5.0))
    call = spans.one("call")
    assert attribute(call, "error.type") == "service_budget_exceeded"
    assert spans.below(call) == []


async def test_an_open_breaker_shows(spans: Recorded) -> None:
    guard = fakes.guard()
    for _ in range(40):
        with pytest.raises(Unavailable):
            await traced(guard, fakes.Script(last=Unavailable("down")), fallback=True)
    refused = [span for span in spans.all("wait") if attribute(span, "error.type") == "breaker_open"]
    assert refused
    assert len(spans.all("attempt")) + len(refused) == 40


async def test_a_kept_answer_and_a_shared_call_show(spans: Recorded) -> None:
    guard, gate = fakes.guard(), asyncio.Event()
    job: dict[str, Any] = {"cache_key": b"k", "codec": fakes.TextCodec()}
    script = fakes.Script([gate])
    first = asyncio.create_task(traced(guard, script, **job))
    await fakes.turns()
    second = asyncio.create_task(traced(guard, script, **job))
    await fakes.turns()
    gate.set()
    await asyncio.gather(first, second)
    await traced(guard, script, **job)
    leader, joined, kept = sorted(spans.all("call"), key=lambda span: span.start_time or 0)
    assert [attribute(span, "argus.cached") for span in (leader, joined, kept)] == [False, True, True]
    assert attribute(joined, "argus.joined") is True
    assert [link.context.span_id for link in joined.links] == [id_of(leader)]
    assert spans.below(leader) == ["wait", "attempt"]
    assert spans.below(joined) == spans.below(kept) == []
    await guard.close()


async def test_a_hedge_is_an_attempt_beside_the_first(spans: Recorded) -> None:
    guard = fakes.guard(
        resilience={"targets": {"theirs": {"hedge": {"min_samples": 30, "quantile": 0.9, "max_extra": 0.5}}}}
    )
    for _ in range(30):
        await guard.run(Job("theirs", fakes.Script()), fakes.context())
    never = asyncio.Event()
    await traced(guard, fakes.Script([never]))
    call = spans.one("call", hedged=True)
    assert attribute(call, "argus.attempts") == 2
    assert spans.below(call) == ["wait", "attempt", "attempt"]
    lost, won = spans.one("attempt", hedge=False), spans.one("attempt", hedge=True)
    assert attribute(lost, "argus.cancelled") is True
    assert lost.status.status_code is StatusCode.UNSET
    assert attribute(won, "argus.attempt") == 2


async def test_a_stream_lasts_until_its_reader_leaves(spans: Recorded) -> None:
    seen: list[str | None] = []

    async def events(timeout_s: float) -> AsyncGenerator[ChatEvent | Usage, None]:
        for number in range(5):
            seen.append(tracing.traceparent())
            yield ChatEvent(0, f"private {number}", (number,), (), None, 7)

    with tracing.root("request"):
        reader = fakes.guard().stream(StreamJob("theirs", events), fakes.context())
        assert (await anext(reader)).text == "private 0"
        inside = tracing.current()
        await anext(reader)
    assert spans.names() == ["request", "wait"]
    await reader.aclose()
    request, call, attempt = spans.one("request"), spans.one("call"), spans.one("attempt")
    assert inside is not None
    assert inside.get_span_context().span_id == id_of(request), "the reader is not within the attempt"
    assert spans.below(call) == ["wait", "attempt"]
    assert [str(one)[:52] for one in seen] == [f"00-{trace_of(attempt)}-{id_of(attempt):016x}"] * 2
    assert attribute(attempt, "argus.cancelled") is True
    assert attribute(attempt, "argus.first_event_s") is not None


async def test_a_stream_that_breaks_says_so(spans: Recorded) -> None:
    async def events(timeout_s: float) -> AsyncGenerator[ChatEvent | Usage, None]:
        yield ChatEvent(0, "x", (1,), (), None, 7)
        raise Unavailable("lost")

    with tracing.root("request"), pytest.raises(Unavailable):
        async for _ in fakes.guard().stream(StreamJob("theirs", events), fakes.context()):
            pass
    assert attribute(spans.one("attempt"), "error.type") == "unavailable"
    assert attribute(spans.one("call"), "error.type") == "unavailable"


async def test_a_cascade_its_steps_and_their_calls(spans: Recorded) -> None:
    site = CascadeSite()
    site.screen.logits = {"safe": 1.0, "knife": 0.9}
    async with site.client() as client:
        await client.post("/v1/cascades/moderation", files={"image": png()}, headers={"traceparent": SAMPLED})
    server = spans.one("POST /v1/cascades/{name}")
    assert spans.below(server) == ["cascade"]
    cascade = spans.one("cascade", cascade="moderation", escalated=True, accepted=True, outcome="block")
    assert attribute(cascade, "argus.gear") == "normal"
    assert spans.below(cascade) == ["step", "step"]
    screen = spans.one("step", step="screen", model="clip", result="went_on", cached=False)
    assert attribute(screen, "argus.threshold") == 0.9
    assert 0 < float(str(attribute(screen, "argus.confidence"))) < 0.9
    analyse = spans.one("step", step="analyse", model="llava", result="accepted")
    assert spans.below(screen) == spans.below(analyse) == ["call"]
    assert "knife" not in "".join(span.to_json() for span in spans.spans)


async def test_a_step_that_fails_says_so(spans: Recorded) -> None:
    site = CascadeSite()
    site.screen.raises = ModelFailed("broken")
    async with site.client() as client:
        await client.post("/v1/cascades/moderation", files={"image": png()}, headers={"traceparent": SAMPLED})
    screen = spans.one("step", step="screen", result="failed")
    assert attribute(screen, "error.type") == "model_failed"
    assert screen.status.status_code is StatusCode.ERROR
    assert spans.one("step", step="analyse").status.status_code is StatusCode.UNSET


async def test_a_shadow_check_is_a_trace_of_its_own(spans: Recorded) -> None:
    shadowed = {**CASCADES["moderation"], "shadow": {"share": 1.0}}
    site = CascadeSite(cascades={"moderation": shadowed})
    async with site.client() as client:
        await client.post("/v1/cascades/moderation", files={"image": png()}, headers={"traceparent": SAMPLED})
    await site.services.cascades.drained()
    shadow = spans.one("shadow", cascade="moderation", step="analyse")
    assert parent_of(shadow) is None
    assert trace_of(shadow) != TRACE
    assert [link.context.span_id for link in shadow.links] == [id_of(spans.one("cascade"))]
    assert spans.below(shadow) == ["call"]
