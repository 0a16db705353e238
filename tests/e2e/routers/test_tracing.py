"""Traces of a real cluster, as a collector receives them: whole trees of an HTTP and a gRPC request, and no secrets."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton

from benchmarks.fake_providers import KEY as PROVIDER_KEY
from tests.e2e.cluster import KEY
from tests.e2e.routers.site import COLLECTOR_KEY, LABELS, Routers
from tests.e2e.test_observability import lines_of, scrape, total
from tests.support.collector import Span, tree
from tests.support.waiting import until

pytestmark = pytest.mark.cluster

PROMPT = "What-nobody-else-may-read"
PRIVATE = "a private label"


@pytest.fixture(scope="module")
def traced(two_routers: Routers) -> Routers:
    return two_routers


def trace(traced: Routers, trace_id: str, complete: Callable[[list[Span]], bool]) -> list[Span]:
    """The spans of a trace, once they are complete: each process sends its own."""

    def own() -> list[Span]:
        return [span for span in traced.collector.spans() if span.trace_id == trace_id]

    assert until(lambda: complete(own()), every_s=0.1), tree(own(), trace_id) or "nothing came"
    return own()


def new_trace() -> tuple[str, str]:
    """A trace of a client's, and its `traceparent`."""
    trace_id = secrets.token_hex(16)
    return trace_id, f"00-{trace_id}-{secrets.token_hex(8)}-01"


def names_below(spans: list[Span], parent: Span) -> list[str]:
    own = [span for span in spans if span.parent_id == parent.span_id]
    return [span.name for span in sorted(own, key=lambda span: span.start_ns)]


def test_a_cascade_over_http_is_one_tree(traced: Routers, scene_png: bytes) -> None:
    trace_id, parent = new_trace()
    with traced.cluster.client() as client:
        response = client.post(
            "/v1/cascades/colour", files={"image": scene_png}, headers={"traceparent": parent, "x-request-id": "t-1"}
        )
        assert response.status_code == 200, response.text
        assert response.json()["results"][0]["step"] == "analyse"
        assert response.headers["x-argus-trace-id"] == trace_id
    spans = trace(traced, trace_id, lambda found: {"POST /v1/cascades/{name}", "clip.classify"} <= names(found))
    by_name = {span.name: span for span in spans}
    server = by_name["POST /v1/cascades/{name}"]
    assert (server.service, server.parent_id) == ("argus-router", parent.split("-")[2])
    assert names_below(spans, server) == ["cascade"]
    assert names_below(spans, by_name["cascade"]) == ["step", "step"]
    screen, analyse = (
        next(span for span in spans if span.attributes.get("argus.step") == name and span.name == "step")
        for name in ("screen", "analyse")
    )
    assert (screen.attributes["argus.result"], analyse.attributes["argus.result"]) == ("went_on", "accepted")
    for step, last in ((screen, "clip.classify"), (analyse, "chat gpt-4o")):
        (call,) = [span for span in spans if span.parent_id == step.span_id]
        assert (call.name, names_below(spans, call)) == ("call", ["wait", "attempt"])
        (attempt,) = [span for span in spans if span.parent_id == call.span_id and span.name == "attempt"]
        assert names_below(spans, attempt) == [last]
    replica = by_name["clip.classify"]
    assert (replica.service, replica.attributes["argus.request_id"]) == ("argus-clip", "t-1")
    assert {"preprocess", "queue", "forward"} <= set(names_below(spans, replica))
    chat = by_name["chat gpt-4o"]
    assert chat.attributes["gen_ai.provider.name"] == "openai"
    told = [request for request in traced.free.requests if trace_id in str(request.headers)]
    assert len(told) == 1, "the provider that is named was told"
    assert chat.span_id in str(told[0].headers)
    passes = {span.span_id: span for span in traced.collector.spans() if span.name == "batch"}
    forward = next(span for span in spans if span.name == "forward" and span.parent_id == replica.span_id)
    assert replica.span_id in passes[forward.links[0]].links


def names(spans: list[Span]) -> set[str]:
    return {span.name for span in spans}


def test_a_request_over_grpc_is_one_tree(traced: Routers, scene_png: bytes) -> None:
    trace_id, parent = new_trace()
    inputs = []
    for name, values in (("IMAGE", [scene_png]), ("LABELS", [label.encode() for label in (*LABELS, PRIVATE)])):
        made = triton.InferInput(name, [len(values)], "BYTES")
        made.set_data_from_numpy(np.array(values, np.object_))
        inputs.append(made)
    client = triton.InferenceServerClient(traced.cluster.grpc)
    client.infer("clip.classify", inputs, headers={"x-api-key": KEY, "traceparent": parent, "tracestate": "v=1"})
    client.close()
    method = "inference.GRPCInferenceService/ModelInfer"
    spans = trace(traced, trace_id, lambda found: {method, "clip.classify"} <= names(found))
    by_name = {span.name: span for span in spans}
    server = by_name[method]
    assert server.parent_id == parent.split("-")[2]
    assert server.attributes["rpc.response.status_code"] == "OK"
    assert names_below(spans, server) == ["call"]
    assert names_below(spans, by_name["call"]) == ["wait", "attempt"]
    assert names_below(spans, by_name["attempt"]) == ["clip.classify"]
    assert {"preprocess", "queue", "forward"} <= set(names_below(spans, by_name["clip.classify"]))


def test_a_streamed_chat_ends_with_its_last_event_and_its_line_names_the_trace(traced: Routers) -> None:
    trace_id, parent = new_trace()
    body = {"model": "gpt", "stream": True, "messages": [{"role": "user", "content": PROMPT}]}
    with (
        traced.cluster.client() as client,
        client.stream("POST", "/v1/chat/completions", json=body, headers={"traceparent": parent}) as response,
    ):
        assert response.headers["x-argus-trace-id"] == trace_id
        assert b"[DONE]" in response.read()
    route = "POST /v1/chat/completions"
    spans = trace(traced, trace_id, lambda found: route in names(found))
    by_name = {span.name: span for span in spans}
    assert by_name["chat gpt-4o"].attributes["gen_ai.request.stream"] is True
    assert by_name[route].seconds >= by_name["chat gpt-4o"].seconds
    folder = Path(traced.cluster.environment["ARGUS_RUN_DIR"]) / traced.cluster.name
    logs = folder / "ray" / "session_latest" / "logs" / "serve"
    found = until(lambda: [line for line in lines_of(logs, "requests_*router*") if line.get("trace_id") == trace_id])
    assert [line["operation"] for line in found] == ["/v1/chat/completions"]


def test_what_is_not_sampled_is_not_sent(traced: Routers, scene_png: bytes) -> None:
    trace_id, parent = new_trace()
    with traced.cluster.client() as client:
        for given in (None, parent[:-2] + "00"):
            sent = {} if given is None else {"traceparent": given}
            files = {"image": scene_png}
            response = client.post("/v1/classify", files=files, data={"labels": "a,b"}, headers=sent)
            assert response.status_code == 200
            assert "x-argus-trace-id" not in response.headers
        after, traceparent = new_trace()
        client.post("/v1/classify", files=files, data={"labels": "a,b"}, headers={"traceparent": traceparent})
    trace(traced, after, lambda found: {"POST /v1/classify", "clip.classify"} <= names(found))
    assert trace_id not in {span.trace_id for span in traced.collector.spans()}
    assert sum(span.name == "POST /v1/classify" for span in traced.collector.spans()) == 1


def test_no_secret_has_left_the_cluster(traced: Routers) -> None:
    sent = b"".join(traced.collector.bodies)
    assert sent
    for secret in (KEY, PROVIDER_KEY, COLLECTOR_KEY, PROMPT, PRIVATE):
        assert secret.encode() not in sent
    assert {headers["authorization"] for headers in traced.collector.headers} == {COLLECTOR_KEY}


def test_what_was_exported_is_counted(traced: Routers) -> None:
    def counted() -> float:
        return total(scrape(traced.cluster).get("ray_argus_spans_exported_total", []))

    assert traced.collector.spans()
    assert until(lambda: counted() == len(traced.collector.spans()), every_s=0.5), counted()
