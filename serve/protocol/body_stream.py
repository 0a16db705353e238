"""A request's body as it comes: within the limit, the deadline and the memory for uploads."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from io import BytesIO

from starlette.requests import ClientDisconnect, Request

from serve.context import RequestContext
from serve.errors import Cancelled, PayloadTooLarge, RequestTooSlow
from serve.protocol.content_coding import coding_of, decoded
from serve.protocol.upload_room import HeldRoom


def context_of(request: Request) -> RequestContext:
    """The context that the edge attached."""
    context: RequestContext = request.scope["state"]["context"]
    return context


async def read_body(request: Request, limit: int, *, upload: bool = False) -> bytes:
    """The whole body, within the request's deadline: whoever sends a byte now and then must not hold a place for ever.
    One that came compressed is inflated.

    Args:
        upload: it takes room in the memory for uploads; a compressed one as much as it may inflate to, as well.

    Raises:
        Overloaded: `uploads_full`.
        PayloadTooLarge: more than `limit` bytes, by its own statement or in fact, as they came or inflated.
        UnsupportedEncoding: a content coding that is not read.
        InvalidRequest: `invalid_content_encoding`.
        DeadlineExceeded: the deadline has passed already.
        RequestTooSlow: it was not all there by the deadline.
        Cancelled: the client left in the middle.
    """
    coding = coding_of(request.headers)
    whole = BytesIO()  # which gives its own memory away, where joined chunks would take as much again
    async for chunk in chunks(request, limit, upload=upload):
        whole.write(chunk)
    body = whole.getvalue()
    if coding is None:
        return body
    if upload:
        _room_of(request).grow_to(len(body) + limit)
    return await decoded(body, coding, limit)


def _room_of(request: Request) -> HeldRoom:
    """What the edge lets the request take of the memory for uploads."""
    room: HeldRoom = request.scope["state"]["upload_room"]
    return room


async def chunks(request: Request, limit: int, *, upload: bool) -> AsyncGenerator[bytes, None]:
    """The body as it comes; see `read_body`."""
    stated = parse_length(request.headers.get("content-length"))
    if stated is not None and stated > limit:
        raise _too_large(limit)
    room = _room_of(request) if upload else None
    if room is not None:
        room.grow_to(stated or 0)
    size, context = 0, context_of(request)
    context.remaining_s()  # raises when nothing is left of the request's time: then it is not the body that was slow
    stream = aiter(request.stream())
    try:
        while True:
            # Around each wait alone: between two of them runs whoever reads, who must not be interrupted.
            async with asyncio.timeout(context.left_s()):
                chunk = await anext(stream, None)
            if chunk is None:
                return
            size += len(chunk)
            if size > limit:
                raise _too_large(limit)
            if room is not None:
                room.grow_to(size)
            yield chunk
    except TimeoutError:
        raise RequestTooSlow(f"Only {size} bytes of the body came before the deadline.", param="body") from None
    except ClientDisconnect:
        raise Cancelled("The client left while sending the body.") from None


def parse_length(text: str | None) -> int | None:
    """A header that states a number of bytes; None when it does not."""
    return int(text) if text is not None and re.fullmatch(r"[0-9]{1,15}", text) else None


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The body is larger than {limit} bytes.", param="body")
