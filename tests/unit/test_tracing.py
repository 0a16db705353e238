"""Which spans a request leaves in the router, how they hang together, and what is not in them."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode, TraceState

from deployments.messages import Call
from serve import tracing
from serve.errors import InvalidRequest, ModelFailed, Unavailable
from serve.tracing.spans import Roots, continued, incoming, outgoing
from tests.support.spans import (
    CALLER,
    SAMPLED,
    TRACE,
    UNSAMPLED,
    Recorded,
    attribute,
    id_of,
    parent_of,
    recording,
    trace_of,
)
from tests.unit import resilience_fakes as fakes
from tests.unit.fakes import KEYS, Site, cluster, png
from tests.unit.test_oip_grpc import Context, inference, skin_of

FIELDS = {"labels": ["private-label", "b"], "image": base64.b64encode(png()).decode()}


@pytest.fixture
def spans() -> Iterator[Recorded]:
    with recording() as recorded:
        yield recorded


def state_of(span: ReadableSpan) -> str:
    assert span.context is not None
    return span.context.trace_state.to_header()


# What is begun.


def test_a_share_is_begun_and_a_caller_who_traces_decides() -> None:
    draws = iter([0.09, 0.1, 0.5])
    roots = Roots(0.1, 1e6, draw=lambda: next(draws))
    assert [roots.take(asked=False) for _ in range(3)] == [True, False, False]
    assert roots.take(asked=True)


def test_no_client_makes_us_begin_more_than_so_many_a_second() -> None:
    clock = fakes.Clock()
    roots = Roots(0.0, 4.0, clock=clock)
    assert [roots.take(asked=True) for _ in range(3)] == [True, True, False]
    clock.now += 0.5
    assert [roots.take(asked=True) for _ in range(2)] == [True, False]
    clock.now += 1e6
    assert [roots.take(asked=True) for _ in range(3)] == [True, True, False]


def test_neither_who_asks_nor_the_share_takes_the_others_half() -> None:
    clock = fakes.Clock()
    roots = Roots(1.0, 4.0, clock=clock)
    for _ in range(100):
        roots.take(asked=True)
    assert [roots.take(asked=False) for _ in range(3)] == [True, True, False]
    assert not roots.take(asked=True)


async def test_nothing_is_begun_where_nothing_is_set_up(client: httpx.AsyncClient, site: Site) -> None:
    response = await client.post("/v1/classify", json=FIELDS, headers={"traceparent": SAMPLED})
    assert "x-argus-trace-id" not in response.headers
    (_, (_, call)) = site.model.calls[-1]
    assert call.traceparent is None
    assert site.recorder.requests[-1].trace_id is None
    with tracing.root("job") as root, tracing.span("more") as span:
        assert (root, span, tracing.start("other")) == (None, None, None)


# HTTP.


async def test_an_http_request_continues_its_callers_trace(
    spans: Recorded, client: httpx.AsyncClient, site: Site
) -> None:
    headers = {"traceparent": SAMPLED, "tracestate": "vendor=1", "x-request-id": "r-7"}
    response = await client.post("/v1/classify", json=FIELDS, headers=headers)
    assert response.headers["x-argus-trace-id"] == TRACE
    server = spans.one("POST /v1/classify")
    assert (trace_of(server), parent_of(server), server.kind) == (TRACE, CALLER, SpanKind.SERVER)
    assert dict(server.attributes or {}) == {
        "http.request.method": "POST",
        "http.route": "/v1/classify",
        "http.response.status_code": 200,
        "argus.client": "anonymous",
        "argus.request_id": "r-7",
    }
    assert state_of(server) == "vendor=1"
    call = spans.one("call")
    assert spans.below(server) == ["call"]
    assert spans.below(call) == ["wait", "attempt"]
    attempt = spans.one("attempt", model="clip", attempt=1, hedge=False)
    assert attempt.kind is SpanKind.CLIENT
    (_, (_, sent)) = site.model.calls[-1]
    assert sent.traceparent == f"00-{TRACE}-{id_of(attempt):016x}-01"
    assert site.recorder.requests[-1].fields()["trace_id"] == TRACE


@pytest.mark.parametrize(
    "given",
    [
        "",
        "nonsense",
        SAMPLED[:-1],
        f"ff-{TRACE}-{CALLER}-01",
        f"00-{'0' * 32}-{CALLER}-01",
        f"00-{TRACE}-{'0' * 16}-01",
    ],
)
async def test_a_traceparent_that_is_none_begins_a_new_trace(
    spans: Recorded, client: httpx.AsyncClient, given: str
) -> None:
    response = await client.post("/v1/classify", json=FIELDS, headers={"traceparent": given})
    assert response.status_code == 200
    server = spans.one("POST /v1/classify")
    assert parent_of(server) is None
    assert response.headers["x-argus-trace-id"] == trace_of(server) != TRACE


async def test_a_tracestate_in_several_headers_is_one_list_in_their_order(
    spans: Recorded, client: httpx.AsyncClient
) -> None:
    headers = [("tracestate", "b=2"), ("traceparent", SAMPLED), ("tracestate", "a=1, c=3"), ("tracestate", "")]
    await client.post("/v1/classify", json=FIELDS, headers=headers)
    assert state_of(spans.one("POST /v1/classify")) == "b=2,a=1,c=3"


@pytest.mark.parametrize("second", [SAMPLED, UNSAMPLED, ""])
async def test_several_traceparents_are_none(spans: Recorded, client: httpx.AsyncClient, second: str) -> None:
    headers = [("traceparent", SAMPLED), ("tracestate", "vendor=1"), ("traceparent", second)]
    response = await client.post("/v1/classify", json=FIELDS, headers=headers)
    server = spans.one("POST /v1/classify")
    assert parent_of(server) is None
    assert response.headers["x-argus-trace-id"] == trace_of(server) != TRACE
    assert state_of(server) == ""


async def test_what_its_caller_does_not_sample_is_not(spans: Recorded, client: httpx.AsyncClient, site: Site) -> None:
    response = await client.post("/v1/classify", json=FIELDS, headers={"traceparent": UNSAMPLED})
    assert "x-argus-trace-id" not in response.headers
    assert spans.spans == []
    assert "trace_id" not in site.recorder.requests[-1].fields()


async def test_what_is_not_sampled_goes_on_in_its_callers_trace(spans: Recorded) -> None:
    incoming("http", SpanKind.SERVER, UNSAMPLED, "vendor=1")
    assert outgoing() == {"traceparent": UNSAMPLED, "tracestate": "vendor=1"}
    with tracing.root("beside"):
        assert TRACE not in str(outgoing()), "a trace of its own"
    assert await asyncio.create_task(_outgoing()) == outgoing()
    incoming("http", SpanKind.SERVER, None)
    assert outgoing() == {}


async def _outgoing() -> dict[str, str]:
    return outgoing()


async def test_what_is_over_the_bound_goes_on_unsampled() -> None:
    with recording(most_per_s=1.0):
        assert incoming("http", SpanKind.SERVER, SAMPLED) is not None
        assert incoming("http", SpanKind.SERVER, SAMPLED) is None
        assert outgoing() == {"traceparent": f"00-{TRACE}-{CALLER}-00"}


@pytest.mark.parametrize("traceparent", [UNSAMPLED, SAMPLED])
def test_a_bad_tracestate_is_read_only_where_it_is_used(monkeypatch: pytest.MonkeyPatch, traceparent: str) -> None:
    read: list[list[str]] = []
    parse = TraceState.from_header
    monkeypatch.setattr(TraceState, "from_header", lambda header: read.append(header) or parse(header))
    with recording():
        incoming("http", SpanKind.SERVER, traceparent, "private words, of a client")
    assert len(read) == (traceparent == SAMPLED)


async def test_of_a_ratio_of_nothing_only_traced_callers_are_sampled(client: httpx.AsyncClient) -> None:
    with recording(ratio=0.0) as spans:
        await client.post("/v1/classify", json=FIELDS)
        assert spans.spans == []
        await client.post("/v1/classify", json=FIELDS, headers={"traceparent": SAMPLED})
        assert spans.one("POST /v1/classify")


@pytest.mark.parametrize("path", ["/v1/healthz", "/v1/readyz", "/docs", "/v2/health/ready"])
async def test_probes_are_not_traced(spans: Recorded, client: httpx.AsyncClient, path: str) -> None:
    await client.get(path, headers={"traceparent": SAMPLED})
    assert spans.spans == []


async def test_whose_fault_an_error_is_shows_in_the_status(
    spans: Recorded, client: httpx.AsyncClient, site: Site
) -> None:
    refused = await client.post("/v1/classify", json={"labels": []})
    site.model.raises = ModelFailed("it holds private-words")
    failed = await client.post("/v1/classify", json=FIELDS)
    theirs, ours = spans.all("POST /v1/classify")
    assert refused.headers["x-argus-trace-id"] == trace_of(theirs)
    assert failed.headers["x-argus-trace-id"] == trace_of(ours)
    assert (theirs.status.status_code, ours.status.status_code) == (StatusCode.UNSET, StatusCode.ERROR)
    assert attribute(theirs, "error.type") == refused.json()["error"]["code"]
    assert attribute(ours, "error.type") == failed.json()["error"]["code"]
    assert attribute(theirs, "http.response.status_code") == refused.status_code
    assert ours.status.description is None
    assert attribute(spans.all("attempt")[0], "error.type") == "model_failed"


async def test_a_client_that_leaves_is_no_failure(spans: Recorded, site: Site) -> None:
    site.model.gate.clear()
    async with site.client() as client:
        request = asyncio.create_task(client.post("/v1/classify", json=FIELDS))
        await site.model.entered.wait()
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
    server = spans.one("POST /v1/classify")
    assert attribute(server, "argus.cancelled") is True
    assert attribute(spans.one("attempt"), "argus.cancelled") is True
    assert all(span.status.status_code is StatusCode.UNSET for span in spans.spans)


async def test_secrets_and_contents_are_in_no_span(spans: Recorded) -> None:
    locked = Site(cluster(keys=True))
    async with locked.client(headers={"x-api-key": KEYS["alice"]}) as client:
        await client.post("/v1/classify", json=FIELDS)
        await client.post("/v1/classify", json={**FIELDS, "model": "private-model"})
        await client.get("/v1/models/private-model", params={"token": KEYS["bob"]})
    said = "".join(span.to_json() for span in spans.spans)
    assert "/v1/models/{name}" in said
    for secret in (*KEYS.values(), "private-", FIELDS["image"][:16]):
        assert secret not in said


async def test_unknown_methods_and_routes_have_names_of_ours(spans: Recorded, client: httpx.AsyncClient) -> None:
    await client.request("BREW", "/private/pot")
    assert spans.names() == ["_OTHER unmatched"]


async def test_an_image_by_url_and_a_store_have_spans_without_their_names(spans: Recorded) -> None:
    url = "https://private.example/private.png?token=private"
    site = Site(pages={url: png()})
    async with site.client() as client:
        await client.post("/v1/classify", json={**FIELDS, "image": url}, headers={"traceparent": SAMPLED})
        await client.get("/v1/indexes", headers={"traceparent": SAMPLED})
    assert spans.below(spans.one("POST /v1/classify")) == ["fetch", "call"]
    assert spans.one("fetch", **{"media.bytes": len(png())}).kind is SpanKind.CLIENT
    assert spans.below(spans.one("GET /v1/indexes")) == ["store"]
    assert spans.one("store", store="vector_index", method="list_indexes")
    assert "private" not in "".join(span.to_json() for span in spans.spans)


# gRPC.


async def test_a_grpc_request_continues_its_callers_trace(spans: Recorded, site: Site) -> None:
    context = Context(traceparent=SAMPLED)
    await skin_of(site).ModelInfer(inference(), context)
    server = spans.one("inference.GRPCInferenceService/ModelInfer")
    assert (trace_of(server), parent_of(server), server.kind) == (TRACE, CALLER, SpanKind.SERVER)
    assert attribute(server, "rpc.system.name") == "grpc"
    assert attribute(server, "rpc.method") == "inference.GRPCInferenceService/ModelInfer"
    assert attribute(server, "rpc.response.status_code") == "OK"
    assert context.trailers == {"x-argus-trace-id": TRACE}
    assert spans.below(server) == ["call"]
    assert site.recorder.requests[-1].trace_id == TRACE
    assert tracing.current() is None


async def test_an_rpcs_metadata_is_read_as_headers_are(spans: Recorded, site: Site) -> None:
    split, doubled = Context(traceparent=SAMPLED), Context(traceparent=SAMPLED)
    split.metadata += [("tracestate", "b=2"), ("tracestate", "a=1")]
    doubled.metadata += [("traceparent", SAMPLED)]
    for context in (split, doubled):
        await skin_of(site).ModelInfer(inference(), context)
    joined, alone = spans.all("inference.GRPCInferenceService/ModelInfer")
    assert (trace_of(joined), state_of(joined)) == (TRACE, "b=2,a=1")
    assert parent_of(alone) is None
    assert trace_of(alone) != TRACE


async def test_a_failed_rpc_says_so(spans: Recorded, site: Site) -> None:
    context = Context(traceparent=SAMPLED)
    site.model.raises = Unavailable("gone")
    await skin_of(site).ModelInfer(inference(), context)
    server = spans.one("inference.GRPCInferenceService/ModelInfer")
    assert attribute(server, "rpc.response.status_code") == "UNAVAILABLE"
    assert attribute(server, "error.type") == "unavailable"
    assert server.status.status_code is StatusCode.ERROR
    assert context.trailers["x-argus-trace-id"] == TRACE


async def test_each_message_of_a_grpc_stream_has_a_span(spans: Recorded, site: Site) -> None:
    async def requests() -> AsyncGenerator[Any, None]:
        for number in range(3):
            yield inference(request_id=f"m-{number}")

    skin = skin_of(site)
    replies = [reply async for reply in skin.ModelStreamInfer(requests(), Context(traceparent=SAMPLED))]
    assert len(replies) == 3
    servers = spans.all("inference.GRPCInferenceService/ModelStreamInfer")
    assert {attribute(server, "argus.request_id") for server in servers} == {"m-0", "m-1", "m-2"}
    assert {trace_of(span) for span in spans.spans} == {TRACE}
    assert all(spans.below(server) == ["call"] for server in servers)


async def test_grpc_probes_are_not_traced(spans: Recorded, site: Site) -> None:
    skin = skin_of(site)
    await skin.ServerReady(None, Context(traceparent=SAMPLED))
    assert spans.spans == []


# Helpers that tasks and threads rest on.


async def test_what_is_current_follows_tasks_and_is_put_back() -> None:
    with recording():
        with tracing.root("outer") as outer:
            with tracing.span("inner") as inner:
                assert await asyncio.create_task(_current()) is inner
                assert await asyncio.to_thread(tracing.current) is inner
            loop = asyncio.get_running_loop()
            assert await loop.run_in_executor(None, tracing.current) is None
            assert await loop.run_in_executor(None, tracing.carried(tracing.current)) is outer
        assert tracing.current() is None
        assert tracing.carried(_current) is _current


async def _current() -> tracing.Span | None:
    return tracing.current()


def test_errors_are_codes_and_never_words(spans: Recorded) -> None:
    for error in (InvalidRequest("private words", code="too_long"), ValueError("private words"), KeyError("private")):
        with pytest.raises(type(error)), tracing.root("request"):
            raise error
    assert [attribute(span, "error.type") for span in spans.spans] == ["too_long", "ValueError", "KeyError"]
    assert "private" not in "".join(span.to_json() for span in spans.spans)


def test_a_root_beside_another_is_not_within_it(spans: Recorded) -> None:
    with recording(ratio=0.0) as few, tracing.root("request", tracing.link_to(SAMPLED)) as request:
        assert request is not None
        with tracing.root("picture", tracing.link_to(request), asked=False) as picture:
            assert picture is None
            assert tracing.current() is None
            assert tracing.start("call") is None
        assert tracing.current() is request
    assert few.names() == ["request"]


def test_a_call_from_the_router_is_continued(spans: Recorded) -> None:
    assert Call("r", 1.0).traceparent is None
    span = continued("clip.classify", SAMPLED)
    assert span is not None
    span.end()
    assert (trace_of(spans.spans[0]), parent_of(spans.spans[0])) == (TRACE, CALLER)
    assert continued("clip.classify", "nonsense") is None
