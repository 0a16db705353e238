"""The edge of the HTTP side, as one ASGI middleware: who asks, how long they will wait, and one shape of error.

Written against ASGI itself (https://asgi.readthedocs.io/en/latest/specs/www.html) because it stands in front of every
request; a stack of framework middlewares costs more than the router's own work. Two things are Ray Serve's, around
us: it generates a missing `X-Request-ID` and returns it, and it cancels the request when the client goes away.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import orjson
from starlette.exceptions import HTTPException

from serve import tracing
from serve.auth import ANONYMOUS, Authenticator
from serve.config.cluster import Limits
from serve.config.overload import Priority
from serve.context import RequestContext, deadline_from, parse_timeout_ms, request_id_from
from serve.errors import (
    ArgusError,
    Cancelled,
    Fault,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    RequestTooSlow,
    UnsupportedEncoding,
)
from serve.metrics import Recorder, RequestRecord
from serve.protocol.content_coding import ACCEPTED
from serve.protocol.unread import Body
from serve.protocol.upload_room import UploadRoom
from serve.request_log import log
from serve.resilience.admission import PRIORITY_HEADER, Admission, lane_of
from serve.resilience.tenants import TenantRates
from serve.tracing import requests

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

TIMEOUT_HEADER = "x-argus-timeout-ms"
# Answered without a key, and also when the router is full: probes must tell "busy" from "dead".
_OPEN_PATHS = frozenset({"/v1/healthz", "/v1/readyz", "/v2/health/live", "/v2/health/ready", "/docs", "/openapi.json"})
DOCS_ASSETS = "/docs-assets"
# Files that everybody may have: the scripts of a page know nothing of the cluster before they are given a key.
_OPEN_PREFIXES = (DOCS_ASSETS, "/viewer/")
# One label for whatever was asked for and does not exist, so that a scanner cannot create series.
_NO_ROUTE = "unmatched"
# In the request's state: what failed after its status was sent.
_FAILURE = "failure"


class Edge:
    """Wraps an ASGI app.

    Args:
        app: its routes find their `RequestContext` in `scope["state"]["context"]`, and in `upload_room` beside it what
            the request may take of the memory for uploads.
        authenticator: who is calling.
        limits: deadlines, and memory for uploads.
        admission: requests in progress, shared with the gRPC side.
        tenants: requests a minute, likewise.
        recorder: where ends of requests are reported.
        sockets: the same app behind the edge of WebSockets.
    """

    def __init__(
        self,
        app: App,
        authenticator: Authenticator,
        limits: Limits,
        admission: Admission,
        tenants: TenantRates,
        recorder: Recorder,
        sockets: App | None = None,
    ) -> None:
        self._app = app
        self._sockets = sockets or app
        self._authenticator = authenticator
        self._limits = limits
        self._admission = admission
        self._tenants = tenants
        self._recorder = recorder
        self._uploads = UploadRoom(limits.max_uploads_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._sockets(scope, receive, send)
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send)
        try:
            with tracing.use(exchange.span):
                await self._answer(exchange)
        except ArgusError as error:
            await exchange.fail(error)
        except HTTPException as error:
            await exchange.fail(_from_http(error))
        except asyncio.CancelledError:
            exchange.outcome, exchange.fault = Cancelled.default_code, Cancelled.blame
            raise
        except Exception:
            log.exception("unhandled error", extra={"request_id": exchange.request_id})
            await exchange.fail(ArgusError("An internal error occurred; the log has it under this request id."))
        finally:
            exchange.end(self._recorder)

    async def _answer(self, exchange: _Exchange) -> None:
        path = exchange.scope["path"]
        if is_open(path):
            self._attach_context(exchange, "normal")
            await self._app(exchange.scope, exchange.body.receive, exchange.send)
            return
        exchange.client = self._authenticator.client(exchange.header(b"authorization"), exchange.header(b"x-api-key"))
        priority = self._admission.priority(exchange.client, exchange.header(PRIORITY_HEADER.encode()))
        context = self._attach_context(exchange, priority)
        await self._tenants.enter(exchange.client)
        room = exchange.scope["state"]["upload_room"] = self._uploads.hold()
        try:
            with self._admission.enter(context, lane_of(path)):
                await self._app(exchange.scope, exchange.body.receive, exchange.send)
        finally:
            room.release()

    def _attach_context(self, exchange: _Exchange, priority: Priority) -> RequestContext:
        stated = exchange.header(TIMEOUT_HEADER.encode())
        timeout_s = None if stated is None else parse_timeout_ms(stated, TIMEOUT_HEADER)
        deadline = deadline_from(timeout_s, self._limits, exchange.started)
        context = RequestContext(exchange.request_id, exchange.client, deadline, priority)
        exchange.scope.setdefault("state", {})["context"] = context
        return context


class _Exchange:
    """One request and what has been sent for it."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self._headers = dict(scope["headers"])
        self.body = Body(self._headers, receive)
        self.started = time.monotonic()
        self.request_id = request_id_from(self.header(b"x-request-id"))
        self.client = ANONYMOUS
        self.status = 0
        self.outcome = "ok"
        self.fault: Fault = "none"
        self._send = send
        self._traced = None if is_open(scope["path"]) else requests.begun("http", scope["headers"])

    @property
    def span(self) -> tracing.Span | None:
        """None when the request is not sampled."""
        return None if self._traced is None else self._traced.span

    def header(self, name: bytes) -> str | None:
        """A header by its lower-case name; API keys are hashed as the UTF-8 that they were sent in."""
        value = self._headers.get(name)
        return None if value is None else value.decode("utf-8", "surrogateescape")

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if not self.body.is_read:
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            if self._traced is not None:
                message = {**message, "headers": [*message.get("headers", ()), self._traced.header]}
        await self._send(message)

    async def fail(self, error: ArgusError) -> None:
        """Sends the error, unless the response has begun: then all that is left is to cut it."""
        self.outcome, self.fault = error.code, error.fault
        if self.status:
            raise error
        if not isinstance(error, RequestTooSlow | PayloadTooLarge):
            await self.body.drain()
        body = orjson.dumps(error_response(error, self.request_id, self.scope["path"]))
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        if error.retry_after_s is not None:
            headers.append((b"retry-after", str(max(1, round(error.retry_after_s))).encode()))
        if error.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        if isinstance(error, MethodNotAllowed) and error.param:
            headers.append((b"allow", error.param.encode()))
        if isinstance(error, UnsupportedEncoding):  # RFC 9110, section 15.5.16
            headers.append((b"accept-encoding", ACCEPTED.encode()))
        await self.send({"type": "http.response.start", "status": error.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": b"" if self.scope["method"] == "HEAD" else body})

    def end(self, recorder: Recorder) -> None:
        """It is over: reports it, and ends its span."""
        failure: ArgusError | None = self.scope.get("state", {}).get(_FAILURE)
        if failure is not None:
            self.outcome, self.fault = failure.code, failure.fault
        request = self._record()
        recorder.record(request)
        if self._traced is not None:
            self._traced.http_ended(self.scope["method"], request)

    def _record(self) -> RequestRecord:
        route = getattr(self.scope.get("route"), "path", _NO_ROUTE)
        seconds = time.monotonic() - self.started
        return RequestRecord(
            self.request_id,
            "http",
            route,
            self.client,
            self.outcome,
            self.status,
            seconds,
            self.fault,
            None if self._traced is None else self._traced.trace_id,
        )


def note_failure(scope: Scope, error: ArgusError) -> None:
    """Says of a request whose status has been sent that it failed after all: so it is recorded."""
    scope["state"][_FAILURE] = error


def is_open(path: str) -> bool:
    """Whether everybody is answered there, without a key."""
    return path in _OPEN_PATHS or path.startswith(_OPEN_PREFIXES)


def error_response(error: ArgusError, request_id: str, path: str) -> dict[str, Any]:
    """The body of an error: one object, except under `/v2`, whose protocol wants a string with the fields beside it."""
    fields = error_fields(error, request_id)
    if path == "/v2" or path.startswith("/v2/"):
        return {**fields, "error": error.message}
    return {"error": fields}


def error_fields(error: ArgusError, request_id: str) -> dict[str, str | None]:
    """The one shape of an error; `type` is there for OpenAI's clients."""
    kind = "invalid_request_error" if isinstance(error, InvalidRequest) else f"{error.default_code}_error"
    return {
        "code": error.code,
        "message": error.message,
        "param": error.param,
        "type": kind,
        "request_id": request_id,
    }


def _from_http(error: HTTPException) -> ArgusError:
    """The framework raises only for what has no route."""
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        return MethodNotAllowed(f"The method is not allowed here; allowed: {allowed}.", param=allowed)
    if error.status_code == 404:
        return NotFound("There is no such route; /docs lists them.", code="route_not_found")
    return InvalidRequest(str(error.detail))
