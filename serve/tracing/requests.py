"""The span of a request at the edge, for every protocol.

Names are those of OpenTelemetry's semantic conventions for HTTP and RPC servers (1.43). The path is left out: it may
hold names of sessions and jobs, and the route says what was asked.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from opentelemetry.trace import StatusCode

from serve.errors import GrpcCode
from serve.metrics import RequestRecord
from serve.tracing.spans import Kind, Span, hex_id, incoming

_PARENT: Final = frozenset({"traceparent", b"traceparent"})
_STATE: Final = frozenset({"tracestate", b"tracestate"})
TRACE_ID: Final = "x-argus-trace-id"
"""Header of the answer to a sampled request; of a unary RPC it is trailing metadata."""

_SERVICE: Final = "inference.GRPCInferenceService"
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})


class RequestSpan:
    """A sampled request, from its arrival to the last byte of its answer.

    Attributes:
        span: current while the request is answered.
        trace_id: 32 hexadecimal digits.
    """

    __slots__ = ("span", "trace_id")

    def __init__(self, span: Span) -> None:
        self.span = span
        self.trace_id = hex_id(span)

    @property
    def header(self) -> tuple[bytes, bytes]:
        """For the answer's headers."""
        return TRACE_ID.encode(), self.trace_id.encode()

    def http_ended(self, method: str, request: RequestRecord) -> None:
        """The answer is complete, or the client has left.

        Args:
            method: as it was sent; what is no method of HTTP's becomes `_OTHER`.
        """
        known = method if method in _METHODS else "_OTHER"
        self.span.update_name(f"{known} {request.route}")
        self.span.set_attributes(
            {"http.request.method": known, "http.route": request.route, "http.response.status_code": request.status}
        )
        self._ended(request)

    def socket_ended(self, request: RequestRecord) -> None:
        """The socket is closed; its status is the close code."""
        self.span.update_name(f"WEBSOCKET {request.route}")
        self.span.set_attributes({"http.route": request.route, "argus.websocket.close_code": request.status})
        self._ended(request)

    def rpc_ended(self, request: RequestRecord) -> None:
        """The RPC, or one message of a stream, is answered."""
        method = f"{_SERVICE}/{request.route}"
        self.span.update_name(method)
        self.span.set_attributes(
            {
                "rpc.system.name": "grpc",
                "rpc.method": method,
                "rpc.response.status_code": GrpcCode(request.status).name if request.status else "OK",
            }
        )
        self._ended(request)

    def _ended(self, request: RequestRecord) -> None:
        self.span.set_attributes({"argus.client": request.client, "argus.request_id": request.request_id})
        if request.outcome == "cancelled":
            self.span.set_attribute("argus.cancelled", True)
        elif request.outcome != "ok":
            self.span.set_attribute("error.type", request.outcome)
            if request.fault == "server":  # what a client did wrong is no failure of ours
                self.span.set_status(StatusCode.ERROR)
        self.span.end()


def begun(name: str, headers: Iterable[tuple[str | bytes, str | bytes]]) -> RequestSpan | None:
    """The span of a request that has just come; None when it is not sampled.

    Args:
        name: until it has ended.
        headers: as they came, or gRPC's metadata, with lower-case names.
    """
    span = incoming(name, Kind.SERVER, *_context(headers))
    return None if span is None else RequestSpan(span)


def _context(headers: Iterable[tuple[str | bytes, str | bytes]]) -> tuple[str | None, str | None]:
    """The caller's `traceparent` and `tracestate`.

    A `tracestate` may be split over several headers, which are one list in their order (Trace Context, section 3.3.1.1;
    RFC 9110, section 5.3). Of a `traceparent` there is one: several are none, and a new trace begins.
    """
    parents: list[str] = []
    states: list[str] = []
    for name, value in headers:
        if name in _PARENT:
            parents.append(_text(value))
        elif name in _STATE:
            states.append(_text(value))
    return parents[0] if len(parents) == 1 else None, ",".join(states) if states else None


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "surrogateescape")
