"""The edge of WebSockets: who asks, and one way of saying that something is wrong.

A browser's script sees neither the status nor the body of a handshake that was refused. So a socket is opened even to
say no: the error's JSON as a text, then a close code, which is 4000 and the error's HTTP status (RFC 6455, section
7.4.2, leaves 4000 to 4999 to applications).

Scripts cannot set headers either. A key may therefore stand in `Sec-WebSocket-Protocol`, as `argus.key.` and the key in
base64 for URLs (RFC 4648, section 5) without padding, beside the protocol `argus`, which alone is answered. It stands
in no address, so it is in no log.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import time
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

import orjson

from serve import tracing
from serve.auth import ANONYMOUS, Authenticator
from serve.config.cluster import Limits
from serve.context import RequestContext, deadline_from, request_id_from
from serve.errors import ArgusError, Cancelled, Fault, Forbidden, Unauthenticated
from serve.metrics import Recorder, RequestRecord
from serve.protocol.edge import App, Message, Receive, Scope, Send, error_fields
from serve.request_log import log
from serve.resilience.admission import PRIORITY_HEADER, Admission
from serve.resilience.tenants import TenantRates
from serve.tracing import requests

SUBPROTOCOL: Final = "argus"
_KEY: Final = "argus.key."
_CLOSE_BASE: Final = 4000
_NORMAL: Final = 1000
# A close frame holds 125 bytes, two of them the code.
_MOST_REASON: Final = 120


class SocketEdge:
    """Wraps an ASGI app for scopes of type `websocket`; see `serve.protocol.edge.Edge`.

    Its routes accept the socket with `SUBPROTOCOL` where `scope["subprotocols"]` offers it.
    """

    def __init__(
        self,
        app: App,
        authenticator: Authenticator,
        limits: Limits,
        admission: Admission,
        tenants: TenantRates,
        recorder: Recorder,
    ) -> None:
        self._app = app
        self._authenticator = authenticator
        self._limits = limits
        self._admission = admission
        self._tenants = tenants
        self._recorder = recorder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        socket = _Socket(scope, send)
        try:
            with tracing.use(socket.span):
                context = self._known_caller(socket)
                await self._tenants.enter(context.client)
                await self._app(scope, receive, socket.send)
        except ArgusError as error:
            await socket.fail(error)
        except asyncio.CancelledError:
            socket.outcome, socket.fault = Cancelled.default_code, Cancelled.blame
            raise
        except Exception:
            log.exception("unhandled error", extra={"request_id": socket.request_id})
            await socket.fail(ArgusError("An internal error occurred; the log has it under this request id."))
        finally:
            socket.end(self._recorder)

    def _known_caller(self, socket: _Socket) -> RequestContext:
        key = socket.header(b"x-api-key") or _offered_key(socket.scope["subprotocols"])
        socket.client = self._authenticator.client(socket.header(b"authorization"), key)
        if socket.client == ANONYMOUS:
            _check_origin(socket.header(b"origin"), socket.header(b"host"))
        priority = self._admission.priority(socket.client, socket.header(PRIORITY_HEADER.encode()))
        deadline = deadline_from(None, self._limits, socket.started)
        context = RequestContext(socket.request_id, socket.client, deadline, priority)
        socket.scope.setdefault("state", {})["context"] = context
        return context


class _Socket:
    """One socket and what has been sent on it."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.scope = scope
        self._headers = dict(scope["headers"])
        self.started = time.monotonic()
        self.request_id = request_id_from(self.header(b"x-request-id"))
        self.client = ANONYMOUS
        self.outcome = "ok"
        self.fault: Fault = "none"
        self._send = send
        self._accepted = False
        self._closed = 0
        self._traced = requests.begun("websocket", scope["headers"])

    @property
    def span(self) -> tracing.Span | None:
        """None when the socket is not sampled."""
        return None if self._traced is None else self._traced.span

    def header(self, name: bytes) -> str | None:
        """A header by its lower-case name."""
        value = self._headers.get(name)
        return None if value is None else value.decode("utf-8", "surrogateescape")

    async def send(self, message: Message) -> None:
        if message["type"] == "websocket.accept":
            self._accepted = True
            if self._traced is not None:
                message = {**message, "headers": [*message.get("headers", ()), self._traced.header]}
        elif message["type"] == "websocket.close":
            self._closed = message.get("code", _NORMAL)
        await self._send(message)

    async def fail(self, error: ArgusError) -> None:
        """Says the error and closes; a viewer who has left is told nothing."""
        self.outcome, self.fault = error.code, error.fault
        if self._closed:
            return
        try:
            if not self._accepted:
                chosen = subprotocol_of(self.scope)
                await self.send({"type": "websocket.accept", "subprotocol": chosen, "headers": []})
            await self.send({"type": "websocket.send", "text": error_text(error, self.request_id)})
            await self.send(
                {"type": "websocket.close", "code": _CLOSE_BASE + error.status, "reason": error.code[:_MOST_REASON]}
            )
        except (OSError, RuntimeError):  # what servers raise when the other end is gone
            self._closed = self._closed or _CLOSE_BASE + error.status

    def end(self, recorder: Recorder) -> None:
        """It is over: reports it, and ends its span."""
        request = self._record()
        recorder.record(request)
        if self._traced is not None:
            self._traced.socket_ended(request)

    def _record(self) -> RequestRecord:
        route = getattr(self.scope.get("route"), "path", "unmatched")
        seconds = time.monotonic() - self.started
        return RequestRecord(
            self.request_id,
            "websocket",
            route,
            self.client,
            self.outcome,
            self._closed or _NORMAL,
            seconds,
            self.fault,
            None if self._traced is None else self._traced.trace_id,
        )


def subprotocol_of(scope: Scope) -> str | None:
    """The protocol with which a socket is accepted."""
    return SUBPROTOCOL if SUBPROTOCOL in scope["subprotocols"] else None


def error_text(error: ArgusError, request_id: str) -> str:
    """The one shape of an error, as a text message."""
    return orjson.dumps({"error": error_fields(error, request_id)}).decode()


def _offered_key(subprotocols: Sequence[str]) -> str | None:
    """The key among the protocols that a client offers.

    Raises:
        Unauthenticated: it is not what it must be.
    """
    for offered in subprotocols:
        if offered.startswith(_KEY):
            coded = offered.removeprefix(_KEY)
            try:
                return base64.b64decode(coded + "=" * (-len(coded) % 4), altchars=b"-_", validate=True).decode()
            except (binascii.Error, UnicodeDecodeError):
                message = f"The protocol {_KEY}... must hold the key in base64 for URLs."
                raise Unauthenticated(message, code="invalid_api_key") from None
    return None


def _check_origin(origin: str | None, host: str | None) -> None:
    """Without keys, a page of any site could look at what runs on its reader's machine: to sockets, browsers do not
    apply the rule that keeps it from reading answers (RFC 6455, section 10.2).

    Raises:
        Forbidden: `origin_not_allowed`.
    """
    if origin is not None and urlsplit(origin).netloc.lower() != (host or "").lower():
        raise Forbidden(
            f"Pages of {origin[:80]!r} may not open sockets here while the cluster asks for no key.",
            code="origin_not_allowed",
            param="origin",
        )
