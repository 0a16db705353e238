"""Spans of what outlives a request: jobs, and live views."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import websockets
from opentelemetry.trace import SpanKind, StatusCode

from serve import tracing
from serve.errors import InvalidMedia
from serve.jobs.service import read_fields
from tests.support.spans import (
    CALLER,
    SAMPLED,
    TRACE,
    Recorded,
    attribute,
    id_of,
    parent_of,
    recording,
    trace_of,
)
from tests.unit.scene_site import SceneSite
from tests.unit.test_job_runner import Bench, context
from tests.unit.test_scene_stream import ORBIT, close_code, error, picture, served, tell


@pytest.fixture
def spans() -> Iterator[Recorded]:
    with recording() as recorded:
        yield recorded


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    yield made
    await made.store.replica.close()


async def test_a_job_is_a_trace_of_its_own_that_links_to_its_request(spans: Recorded, bench: Bench) -> None:
    async with bench.runner().started():
        with tracing.root("request"):
            job_id = await bench.submit(2)
        state, result = await bench.ended(job_id)
    assert (state, result["numbers"]) == ("succeeded", [0, 1])
    request, job = spans.one("request"), spans.one("job", operation="count", attempt=1, request_id=job_id)
    assert parent_of(job) is None
    assert trace_of(job) != trace_of(request)
    assert [link.context.span_id for link in job.links] == [id_of(request)]
    assert spans.below(request) == ["store"]
    assert spans.below(job) == ["store"] * 3, "two parts and the result"
    assert {attribute(span, "argus.method") for span in spans.all("store")} == {"submit", "checkpoint", "finish"}
    assert all(span.kind is SpanKind.CLIENT for span in spans.all("store"))


async def test_a_job_that_is_resumed_links_to_its_request_again(spans: Recorded, bench: Bench) -> None:
    bench.counting.stop = 1
    with tracing.root("request"):
        job_id = await bench.submit(2)
    async with bench.runner().started():
        await bench.counting.reached.wait()
    bench.counting.stop = None
    async with bench.runner().started():
        await bench.ended(job_id)
    first, second = (spans.one("job", attempt=number) for number in (1, 2))
    assert attribute(first, "argus.cancelled") is True
    request = id_of(spans.one("request"))
    assert first.links[0].context.span_id == second.links[0].context.span_id == request


async def test_a_job_that_fails_says_so(spans: Recorded, bench: Bench) -> None:
    bench.counting.raises = {0: [InvalidMedia("private words")]}
    async with bench.runner().started():
        await bench.ended(await bench.submit(1))
    job = spans.one("job")
    assert attribute(job, "error.type") == "invalid_image"
    assert job.status.status_code is StatusCode.ERROR
    assert job.links == ()


async def test_a_job_of_an_unsampled_request_is_sampled_like_any(bench: Bench) -> None:
    with recording(ratio=0.0) as spans:
        async with bench.runner().started():
            await bench.ended(await bench.submit(1))
            assert spans.spans == []
            with tracing.root("request", tracing.link_to(SAMPLED)):
                await bench.ended(await bench.submit(1))
        assert spans.one("job")


async def test_what_is_stored_of_a_request_is_not_given_to_its_operation(spans: Recorded, bench: Bench) -> None:
    with tracing.root("request"):
        job_id = await bench.submit(1, by=7)
    claim = await bench.store.call("claim", context(), "token", 30.0)
    assert claim.job.id == job_id
    assert b"argus.traceparent" in claim.fields
    assert read_fields(claim.fields) == {"to": 1, "by": 7}


async def test_a_view_is_one_span_and_each_picture_a_trace_of_its_own(spans: Recorded) -> None:
    site = SceneSite()
    site.scenes.put_scene("room", b"a room")
    given = [("traceparent", SAMPLED), ("tracestate", "b=2"), ("tracestate", "a=1")]
    async with (
        served(site) as address,
        websockets.connect(f"{address}/room/stream", additional_headers=given) as socket,
    ):
        assert socket.response is not None
        assert socket.response.headers["x-argus-trace-id"] == TRACE
        await tell(socket, **ORBIT)
        await picture(socket)
        await tell(socket)
        await picture(socket)
    view = spans.one("WEBSOCKET /v1/scenes/{name}/stream")
    assert (trace_of(view), parent_of(view), view.kind) == (TRACE, CALLER, SpanKind.SERVER)
    assert view.context is not None and view.context.trace_state.to_header() == "b=2,a=1"
    pictures = spans.all("picture")
    assert len({trace_of(span) for span in (view, *pictures)}) == 3
    assert all([link.context.span_id for link in span.links] == [id_of(view)] for span in pictures)
    assert all("call" in spans.below(span) for span in pictures)
    assert set(spans.below(view)) <= {"store"}, "no picture is part of the view's own trace"


async def test_a_view_that_is_refused_says_why(spans: Recorded) -> None:
    site = SceneSite()
    async with served(site) as address, websockets.connect(f"{address}/nowhere/stream") as socket:
        assert (await error(socket))["code"] == "scene_not_found"
        assert await close_code(socket) == 4404
    view = spans.one("WEBSOCKET /v1/scenes/{name}/stream")
    assert attribute(view, "error.type") == "scene_not_found"
    assert attribute(view, "argus.websocket.close_code") == 4404
    assert view.status.status_code is StatusCode.UNSET
