"""An OTLP collector over HTTP that keeps what it is sent, or does what collectors should not."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass
class Span:
    """A span as it was received."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    start_ns: int
    seconds: float
    attributes: dict[str, Any]
    links: list[str]
    failed: bool


@dataclass
class Collector:
    """Listens within a `with` block.

    Attributes:
        status: of its answers.
        hangs: it answers nothing before `release`.
        reached: something was received.
    """

    status: int = 200
    hangs: bool = False
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    reached: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Collector:
        self._released = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer._receive(self)

            def log_message(self, format: str, *args: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *failure: object) -> None:
        self.release()
        self._server.shutdown()
        self._server.server_close()

    def release(self) -> None:
        """Hangs no more."""
        self._released.set()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def spans(self) -> list[Span]:
        """Of all answers that were good."""
        return [
            Span(
                _plain(part.resource.attributes)["service.name"],
                span.name,
                span.trace_id.hex(),
                span.span_id.hex(),
                span.parent_span_id.hex(),
                span.start_time_unix_nano,
                (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
                _plain(span.attributes),
                [link.span_id.hex() for link in span.links],
                span.status.code == 2,
            )
            for part in self._parts()
            for scope in part.scope_spans
            for span in scope.spans
        ]

    def resources(self) -> list[dict[str, Any]]:
        """What each part says of the process that it is from."""
        return [_plain(part.resource.attributes) for part in self._parts()]

    def _parts(self) -> list[Any]:
        return [part for body in self.bodies for part in ExportTraceServiceRequest.FromString(body).resource_spans]

    def _receive(self, request: BaseHTTPRequestHandler) -> None:
        assert request.path == "/v1/traces", request.path
        body = request.rfile.read(int(request.headers["content-length"]))
        self.reached.set()
        if self.hangs:
            self._released.wait(60)
        if self.status == 200:
            self.bodies.append(body)
            self.headers.append({name.lower(): value for name, value in request.headers.items()})
        request.send_response(self.status)
        request.send_header("content-length", "0")
        request.end_headers()


def _plain(attributes: Any) -> dict[str, Any]:
    return {one.key: _value(one.value) for one in attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return getattr(value, kind)


def tree(spans: list[Span], trace_id: str) -> str:
    """One trace as indented lines, each with its service, milliseconds and attributes."""
    own = sorted((span for span in spans if span.trace_id == trace_id), key=lambda span: span.start_ns)
    known = {span.span_id for span in own}

    def lines(parent: str, depth: int) -> list[str]:
        found = []
        for span in own:
            if span.parent_id == parent or (depth == 0 and span.parent_id not in known):
                said = " ".join(
                    f"{key.removeprefix('argus.')}={_short(value)}" for key, value in span.attributes.items()
                )
                found.append(f"{'  ' * depth}{span.name}  [{span.service}] {1e3 * span.seconds:.1f} ms  {said}")
                found += lines(span.span_id, depth + 1)
        return found

    return "\n".join(lines("", 0))


def _short(value: Any) -> Any:
    return f"{value:.4g}" if isinstance(value, float) else value
