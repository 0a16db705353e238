"""From finished spans to a collector that takes them, refuses them, fails, hangs, or is not there."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.trace import INVALID_SPAN

from serve import tracing
from serve.config.load import ConfigErrors, parse
from serve.config.tracing import Tracing
from serve.tracing import Kind
from serve.tracing.export import address
from tests.support.collector import Collector
from tests.support.spans import SAMPLED

SECRET = "collector-key-5f1d"


@pytest.fixture(autouse=True)
def _ended() -> Iterator[None]:
    yield
    tracing.shut_down(0.1)


class Counts(Counter[str]):
    """What became of spans."""

    def __call__(self, what: str, number: int) -> None:
        self[what] += number


def until(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come to that")


def set_up(endpoint: str, counts: Counts, **settings: Any) -> None:
    given = Tracing.model_validate(
        {"endpoint": endpoint, "sample_ratio": 1, "max_traces_per_s": 10_000, "export_every_s": 0.05, **settings}
    )
    tracing.set_up(given, "test", "router", count=counts)


def spans(number: int) -> None:
    for _ in range(number):
        with tracing.root("request"):
            pass


def test_spans_come_to_a_collector_over_http(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLLECTOR_KEY", SECRET)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "key=private")
    counts = Counts()
    with Collector() as collector:
        set_up(collector.endpoint, counts, headers_env={"x-collector-key": "COLLECTOR_KEY"})
        spans(3)
        until(lambda: counts["exported"] == 3)
    assert counts == {"exported": 3}
    assert [span.name for span in collector.spans()] == ["request"] * 3
    assert {headers["x-collector-key"] for headers in collector.headers} == {SECRET}
    resource = collector.resources()[0]
    assert (resource["service.name"], resource["service.namespace"]) == ("argus-router", "test")
    assert SECRET.encode() not in b"".join(collector.bodies)
    assert "private" not in str(resource)


def test_spans_come_to_a_collector_over_grpc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLLECTOR_KEY", SECRET)
    found: list[Any] = []
    metadata: list[dict[str, str]] = []

    class Servicer(trace_service_pb2_grpc.TraceServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:  # noqa: N802
            found.extend(span for part in request.resource_spans for s in part.scope_spans for span in s.spans)
            metadata.append(dict(context.invocation_metadata()))
            return trace_service_pb2.ExportTraceServiceResponse()

    server = grpc.server(futures.ThreadPoolExecutor(1))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Servicer(), server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    counts = Counts()
    try:
        set_up(f"http://127.0.0.1:{port}", counts, protocol="grpc", headers_env={"x-collector-key": "COLLECTOR_KEY"})
        spans(2)
        until(lambda: counts["exported"] == 2)
    finally:
        server.stop(None)
    assert [span.name for span in found] == ["request"] * 2
    assert metadata[0]["x-collector-key"] == SECRET


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_collector_that_is_not_there_costs_the_spans_and_nothing_else(protocol: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        counts = Counts()
        set_up(f"http://127.0.0.1:{taken.getsockname()[1]}", counts, protocol=protocol, timeout_s=0.2)
        spans(5)
        until(lambda: counts["export_failed"] == 5)
    assert counts == {"export_failed": 5}


def test_a_collector_that_fails_costs_the_spans() -> None:
    counts = Counts()
    with Collector(status=500) as collector:
        set_up(collector.endpoint, counts, timeout_s=5)
        spans(5)
        until(lambda: counts["export_failed"] == 5)
        collector.status = 200
        spans(2)
        until(lambda: counts["exported"] == 2)
    assert counts == {"export_failed": 5, "exported": 2}


def test_what_a_hanging_collector_holds_up_is_bounded_and_counted() -> None:
    counts = Counts()
    with Collector(hangs=True) as collector:
        set_up(collector.endpoint, counts, max_queue=64, timeout_s=60)
        spans(1)
        assert collector.reached.wait(60)
        spans(500)
        assert counts == {"queue_full": 501 - 64}, "none of them was waited for"
        ended = threading.Event()

        def end() -> None:
            tracing.shut_down(0.1)
            ended.set()

        threading.Thread(target=end, daemon=True).start()
        assert ended.wait(60), "the end waits for no collector"
        collector.release()
    assert tracing.enabled() is False


def test_what_is_left_is_sent_at_the_end() -> None:
    counts = Counts()
    with Collector() as collector:
        set_up(collector.endpoint, counts, export_every_s=60)
        spans(4)
        assert counts == {}
        tracing.shut_down(20)
        assert len(collector.spans()) == 4
    assert tracing.start("more") is None


def test_a_variable_that_is_not_set_is_said_and_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    counts = Counts()
    with Collector() as collector:
        set_up(collector.endpoint, counts, headers_env={"authorization": "ARGUS_TEST_NO_SUCH_VARIABLE"})
        spans(1)
        until(lambda: counts["exported"] == 1)
    assert "ARGUS_TEST_NO_SUCH_VARIABLE" in caplog.text
    assert "authorization" not in collector.headers[0]


def test_without_an_endpoint_no_exporter_is_loaded() -> None:
    code = (
        "import sys, serve.router, deployments.batching\n"
        "from serve import tracing\n"
        "from serve.config.tracing import Tracing\n"
        "tracing.set_up(Tracing(), 'test', 'router')\n"
        "assert not tracing.enabled()\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry.exporter.otlp')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("said", ["true", " TRUE "])
async def test_where_opentelemetry_is_switched_off_no_request_is_traced(
    monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", said)
    set_up("http://127.0.0.1:1", Counts())
    assert not tracing.enabled()
    assert tracing.incoming("http", Kind.SERVER, SAMPLED) is None


def test_a_span_that_is_none_has_no_traceparent() -> None:
    with tracing.use(INVALID_SPAN):
        assert tracing.traceparent() is None


def test_a_clients_words_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    set_up("http://127.0.0.1:1", Counts())
    span = tracing.incoming("http", Kind.SERVER, SAMPLED, "private words of a client")
    assert span is not None
    span.end()
    assert "private" not in caplog.text


@pytest.mark.parametrize(
    ("traceparent", "tracestate"), [("0" * 600, ""), (SAMPLED, "a=" + "1" * 9000), (SAMPLED, "no list"), ("x", "=")]
)
def test_a_client_cannot_fill_the_log(caplog: pytest.LogCaptureFixture, traceparent: str, tracestate: str) -> None:
    set_up("http://127.0.0.1:1", Counts())
    span = tracing.incoming("http", Kind.SERVER, traceparent, tracestate)
    if span is not None:
        span.end()
    assert not caplog.records


@pytest.mark.parametrize(
    ("given", "posted"),
    [
        ("http://collector:4318", "http://collector:4318/v1/traces"),
        ("http://collector:4318/", "http://collector:4318/v1/traces"),
        ("https://collector/otlp/v1/traces", "https://collector/otlp/v1/traces"),
    ],
)
def test_where_spans_are_posted(given: str, posted: str) -> None:
    assert address(given) == posted


def file(**section: Any) -> Any:
    return parse(
        {
            "name": "test",
            "node_pools": {"local": {}},
            "models": {"clip": {"kind": "clip", "checkpoint": "openai/clip-vit-base-patch32"}},
            "providers": {"gpt": {"kind": "openai", "model": "gpt-4o"}},
            "tracing": section,
        }
    )


def test_a_good_section() -> None:
    section = {"endpoint": "https://collector:4317", "protocol": "grpc", "sample_ratio": 0.5, "propagate_to": ["gpt"]}
    assert file(**section).tracing.propagate_to == ("gpt",)
    assert file().tracing.endpoint is None


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"endpoint": "collector:4318"}, "tracing.endpoint: got 'collector:4318'; must be http://HOST:PORT"),
        ({"endpoint": "http://user:word@collector"}, "must hold no secret"),
        ({"sample_ratio": 1.5}, "tracing.sample_ratio: got 1.5"),
        ({"protocol": "udp"}, "tracing.protocol: got 'udp'"),
        ({"headers_env": {"authorization": "Bearer abc"}}, "tracing.headers_env.authorization"),
        ({"propagate_to": ["clip"]}, "tracing.propagate_to: got 'clip'; it must be a provider of this file: gpt"),
        ({"sampel_ratio": 1}, "tracing.sampel_ratio: unknown key; did you mean 'sample_ratio'?"),
    ],
)
def test_a_bad_section_is_said(section: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigErrors) as caught:
        file(**section)
    assert said in caught.value.message
