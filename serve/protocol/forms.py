"""Multipart bodies, taken apart into texts and files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from serve.errors import InvalidRequest
from serve.media.source import MediaBytes
from serve.protocol.body_stream import chunks, read_body
from serve.protocol.content_coding import coding_of

_MAX_FIELDS = 4096
# Bytes of a form that are parsed at once.
_PIECE = 1024 * 1024


class _InMemoryParser(MultiPartParser):
    # The body is in memory already and bounded; Starlette would write parts above 1 MB to disk.
    spool_max_size = 1 << 40


async def read_form(headers: Headers, body: bytes) -> list[tuple[str, str | MediaBytes]]:
    """The parts of a multipart body in order, by the names of their fields: texts, and files as bytes.

    Raises:
        InvalidRequest: `invalid_multipart`.
    """

    async def whole() -> AsyncIterator[bytes]:
        yield body

    return await _parts(headers, whole(), len(body))


async def read_upload_form(request: Request, limit: int) -> list[tuple[str, str | MediaBytes]]:
    """The parts of a request's multipart body, which is taken apart as it comes: a large one is in memory once. It
    takes room in the memory for uploads.

    Raises:
        ArgusError: see `read_body` and `read_form`.
    """
    if coding_of(request.headers) is None:
        return await _parts(request.headers, chunks(request, limit, upload=True), limit)
    return await read_form(request.headers, await read_body(request, limit, upload=True))


async def _parts(headers: Headers, body: AsyncIterator[bytes], most: int) -> list[tuple[str, str | MediaBytes]]:
    """See `read_form`.

    Args:
        most: bytes that may be in it.
    """

    async def stream() -> AsyncIterator[bytes]:
        # In pieces that take the parser a millisecond or two, with room for others in between.
        async for chunk in body:
            for start in range(0, len(chunk), _PIECE):
                yield chunk[start : start + _PIECE]
                await asyncio.sleep(0)

    # RFC 7578, section 5.1.2: fields are UTF-8. A charset that the client names would choose our decoder.
    _, options = parse_options_header(headers["content-type"])
    if b"boundary" not in options:
        raise InvalidRequest("The multipart body has no boundary.", code="invalid_multipart", param="content-type")
    utf8 = Headers(raw=[(b"content-type", b"multipart/form-data; boundary=" + options[b"boundary"])])
    parser = _InMemoryParser(
        utf8,
        stream(),  # type: ignore[arg-type]
        max_files=_MAX_FIELDS,
        max_fields=_MAX_FIELDS,
        max_part_size=max(1, most),
    )
    try:
        form: FormData = await parser.parse()
    except (MultiPartException, KeyError, ValueError, UnicodeDecodeError, LookupError) as error:
        message = getattr(error, "message", None) or str(error)
        raise InvalidRequest(f"The multipart body does not parse: {message}.", code="invalid_multipart") from None
    parts = [
        (name, await _file(value) if isinstance(value, UploadFile) else value) for name, value in form.multi_items()
    ]
    await form.close()
    return parts


async def _file(part: UploadFile) -> MediaBytes:
    data = await part.read()
    await part.close()  # at once: it holds the bytes a second time
    return MediaBytes(data, part.content_type, part.filename)
