"""Content codings of request bodies (RFC 9110, section 8.4): gzip and deflate, undone within the body's limit."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Mapping
from typing import Final

from starlette.datastructures import Headers

from serve.errors import InvalidRequest, PayloadTooLarge, UnsupportedEncoding

ACCEPTED: Final = "gzip, deflate"
# zlib's `wbits`: of gzip's own header, and of zlib's, which is what `deflate` names (RFC 9110, section 8.4.1.2).
_WINDOWS: Final[Mapping[str, int]] = {
    "gzip": zlib.MAX_WBITS | 16,
    "x-gzip": zlib.MAX_WBITS | 16,
    "deflate": zlib.MAX_WBITS,
}


def coding_of(headers: Headers) -> str | None:
    """The coding that a body came in; None when it came as it is.

    Raises:
        UnsupportedEncoding: one that is not read here, or several on top of each other.
    """
    coding = ", ".join(headers.getlist("content-encoding")).strip().lower()
    if coding in ("", "identity"):
        return None
    if coding not in _WINDOWS:
        message = f"Content encoding {coding[:40]!r} is not accepted; send one of {ACCEPTED}, or none."
        raise UnsupportedEncoding(message, param="content-encoding")
    return coding


async def decoded(body: bytes, coding: str, limit: int) -> bytes:
    """The body before it was coded. Off the event loop: a few kB may take as long as the limit's many MB.

    Args:
        coding: from `coding_of`.
        limit: most bytes that come out; no more than that is ever inflated.

    Raises:
        PayloadTooLarge: there are more.
        InvalidRequest: `invalid_content_encoding`: it is damaged or cut off, or something stands behind it.
    """
    return await asyncio.to_thread(_inflated, body, coding, limit)


def _inflated(body: bytes, coding: str, limit: int) -> bytes:
    inflater = zlib.decompressobj(_WINDOWS[coding])
    try:
        plain = inflater.decompress(body, limit + 1)
    except zlib.error as error:
        raise _invalid(f"The body is not valid {coding}: {error}.") from None
    if len(plain) > limit:
        raise PayloadTooLarge(f"The body inflates to more than {limit} bytes.", param="body")
    if not inflater.eof or inflater.unused_data:
        raise _invalid(f"The {coding} body is truncated, or something stands behind it.")
    return plain


def _invalid(message: str) -> InvalidRequest:
    return InvalidRequest(message, code="invalid_content_encoding", param="body")
