"""Files of scenes as downloads: exports and artifacts, in pieces, whole or a part of them (RFC 9110, section 14)."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Final

import orjson
from fastapi import Request, Response
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from deployments.scenes.types import Artifact
from serve.context import RequestContext
from serve.errors import DeadlineExceeded, InvalidRequest
from serve.protocol.body_stream import context_of
from serve.protocol.edge import error_response
from serve.scenes.service import SceneService

# What is known by its content never changes under its name; anything else is asked for again, and mostly a 304.
IMMUTABLE: Final = "private, max-age=31536000, immutable"
REVALIDATED: Final = "private, no-cache"
_RANGE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def download(service: SceneService, artifact: Artifact, request: Request, etag: str, cache: str) -> Response:
    """An artifact's bytes, or those of the one range that is asked for; 304 when the client has them.

    Args:
        etag: of its content, in quotes.
        cache: for `Cache-Control`.
    """
    headers = {
        "etag": etag,
        "cache-control": cache,
        "accept-ranges": "bytes",
        "content-disposition": f'attachment; filename="{artifact.filename}"',
        "x-content-type-options": "nosniff",
    }
    if unchanged(request, etag):
        return Response(status_code=304, headers=headers)
    size = artifact.nbytes
    start, end = 0, size
    status = 200
    if request.headers.get("if-range", etag) == etag:
        part = _part(request.headers.get("range", ""), size)
        if part is not None:
            status, (start, end) = 206, part
            headers["content-range"] = f"bytes {start}-{end - 1}/{size}"
            if start >= end:
                return _unsatisfiable(request, size)
    headers["content-length"] = str(end - start)
    context = _whole(context_of(request), service)
    pieces = service.read(artifact.id, start, end, context)
    return _Download(pieces, context, status_code=status, headers=headers, media_type=artifact.media_type)


def unchanged(request: Request, etag: str) -> bool:
    """Whether the client has what `etag` names."""
    stated = request.headers.get("if-none-match", "")
    return stated.strip() == "*" or etag in (tag.strip().removeprefix("W/") for tag in stated.split(","))


def _part(stated: str, size: int) -> tuple[int, int] | None:
    """Where the one range that `Range` states begins, and where it has ended; None when the whole is to be sent, as
    for several ranges and for what is no range. One that holds no byte of the file ends where it begins, or before."""
    found = _RANGE.fullmatch(stated)
    if found is None or not (found[1] or found[2]):
        return None
    if not found[1]:  # so many of the last bytes
        return max(0, size - int(found[2])), size if int(found[2]) else 0
    if found[2] and int(found[2]) < int(found[1]):
        return None
    return int(found[1]), min(size, int(found[2]) + 1) if found[2] else size


def _unsatisfiable(request: Request, size: int) -> Response:
    error = InvalidRequest(f"The file has {size} bytes; the range holds none.", code="invalid_range", param="range")
    body = error_response(error, context_of(request).request_id, request.url.path)
    return Response(
        orjson.dumps(body), 416, headers={"content-range": f"bytes */{size}"}, media_type="application/json"
    )


def _whole(context: RequestContext, service: SceneService) -> RequestContext:
    """A download begins within the request's deadline and may last as long as any request may."""
    return replace(context, deadline=time.monotonic() + service.limits.max_timeout_s)


class _Download(StreamingResponse):
    """Ends with its deadline, also when the reader does not read."""

    def __init__(self, pieces: AsyncIterator[bytes], context: RequestContext, **options: object) -> None:
        super().__init__(pieces, **options)  # type: ignore[arg-type]  # Starlette's own
        self._pieces, self._context = pieces, context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with aclosing(self._pieces), asyncio.timeout(self._context.left_s()):  # type: ignore[type-var]
                await super().__call__(scope, receive, send)
        except TimeoutError:
            raise DeadlineExceeded("The file was not read within the longest time that a request may take.") from None
