"""Server-sent events (WHATWG HTML, section 9.2)."""

from __future__ import annotations

from collections.abc import AsyncIterable, Mapping
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import StreamingResponse

from serve.errors import ArgusError
from serve.protocol.body_stream import context_of
from serve.protocol.edge import error_fields, note_failure

MEDIA_TYPE: Final = "text/event-stream"
# Neither a cache nor a proxy keeps events back.
HEADERS: Final[Mapping[str, str]] = {"cache-control": "no-cache", "x-accel-buffering": "no"}
# How soon a reader whose stream has ended comes back.
RETRY: Final = b"retry: 1000\n\n"


RECONNECT: Final = (
    b"event: reconnect\n"
    b'data: {"object":"stream.end","message":"The request\'s time is over and the job goes on: ask again."}\n\n'
)
"""The last event of a stream about work that goes on. Streams keep to their request's deadline, since each holds one of
the router's places; so a reader that is no EventSource, which comes back by itself, must be told."""


def server_event(content: object, name: str | None = None, number: int | None = None) -> bytes:
    """One event.

    Args:
        name: of its kind; `message` for readers when None.
        number: what a reader who comes back says it has seen.
    """
    kind = b"" if name is None else b"event: " + name.encode() + b"\n"
    order = b"" if number is None else b"id: %d\n" % number
    return kind + order + b"data: " + orjson.dumps(content) + b"\n\n"


def error_event(error: ArgusError, request: Request, name: str | None = None) -> bytes:
    """The event of a failure after the status was sent; the edge counts the request as failed."""
    note_failure(request.scope, error)
    return server_event({"error": error_fields(error, context_of(request).request_id)}, name)


def event_stream(content: AsyncIterable[bytes]) -> StreamingResponse:
    """An answer of events."""
    return StreamingResponse(content, media_type=MEDIA_TYPE, headers=dict(HEADERS))


def document(description: str) -> dict[int | str, dict[str, Any]]:
    """The answer in the OpenAPI document."""
    return {200: {"description": description, "content": {MEDIA_TYPE: {"schema": {"type": "string"}}}}}
