"""From the text that a client put into a request to bytes.

A request names an image as a data URI (RFC 2397), as a bare base64 string (RFC 4648 section 4) or as a URL. This
module tells them apart and decodes the first two; `serve.media.fetch` fetches the third.
"""

from __future__ import annotations

import binascii
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote_to_bytes

import pybase64

from serve.errors import InvalidMedia, InvalidRequest, PayloadTooLarge

SourceKind = Literal["data_uri", "url", "base64"]

# A scheme is what RFC 3986 section 3.1 says. Base64 has no colon, so a text with a scheme is never base64.
_SCHEME = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.\-]*):")
_ASCII_WHITESPACE = b" \t\r\n\f\v"
# Longest scheme (and white space before it) that is looked for, so that 20 MiB of base64 are not scanned for a colon.
_SCHEME_WINDOW = 256
# A data URI's header is a media type (RFC 6838 section 4.2: up to 127 + 1 + 127 characters) with parameters.
_MAX_DATA_URI_HEADER = 1024


@dataclass(frozen=True, slots=True)
class MediaBytes:
    """The bytes of one image, video or document, not yet looked at."""

    data: bytes
    declared_type: str | None
    """The media type its sender claims ("image/png", possibly with parameters); None when nothing was claimed."""
    filename: str | None = None
    """As its sender names it, for messages and to tell what bytes cannot; None when it has no name."""


def classify_source(text: str) -> SourceKind:
    """Which of the three spellings `text` is, from its first characters; says nothing about whether it is valid.

    Any scheme other than `data:` counts as a URL, so `file:///etc/passwd` is refused as a URL, not as bad base64.
    """
    match = _SCHEME.match(text[:_SCHEME_WINDOW])
    if match is None:
        return "base64"
    return "data_uri" if match[1].lower() == "data" else "url"


def parse_data_uri(text: str, max_bytes: int) -> MediaBytes:
    """Decode `data:[<media type>][;parameters];base64,<data>` (RFC 2397 section 3).

    Only the base64 form is read: percent-encoded binary triples its size and no client library writes it. A `%2B` or
    `%3D` inside the base64 is undone, since RFC 2397 data is made of URL characters. RFC 2397's default type
    (text/plain) is not assumed: without a type, `declared_type` is None.

    Raises:
        InvalidRequest: `invalid_data_uri`.
        InvalidMedia: `invalid_base64`.
        PayloadTooLarge: the decoded data would exceed `max_bytes`; found before anything is decoded.
    """
    head, comma, payload = text.partition(",")
    head = head[: _MAX_DATA_URI_HEADER + 1].strip()
    if not comma or len(head) > _MAX_DATA_URI_HEADER or head[:5].lower() != "data:":
        raise _invalid_data_uri("it must read data:<media type>;base64,<data>")
    media_type, semicolon, encoding = head[5:].rpartition(";")
    if not semicolon or encoding.strip().lower() != "base64":
        raise _invalid_data_uri("only the base64 form is read, so ';base64' must precede the comma")
    if "%" in payload:
        payload = unquote_to_bytes(payload).decode("latin-1")
    return MediaBytes(_decode(payload, max_bytes), media_type.strip() or None)


def parse_base64(text: str, max_bytes: int) -> MediaBytes:
    """Decode a bare base64 string in the standard alphabet (RFC 4648 section 4), with padding.

    ASCII white space is dropped, since line-wrapping encoders (`base64`, MIME) put it there. Everything else is
    strict. The URL-safe alphabet is refused rather than guessed at: image data always comes from a standard encoder,
    and '-' or '_' in it has so far meant a text that was never base64. Missing padding is refused because it is the
    usual trace of a string that was cut.

    Raises:
        InvalidMedia: `invalid_base64`.
        PayloadTooLarge: the decoded data would exceed `max_bytes`; found before anything is decoded.
    """
    return MediaBytes(_decode(text, max_bytes), None)


def _decode(text: str, max_bytes: int) -> bytes:
    try:
        encoded = text.encode("ascii")
    except UnicodeEncodeError:
        raise _invalid_base64("it contains characters outside ASCII") from None
    if len(encoded) % 4 == 0 and _size(encoded) <= max_bytes:
        # The usual case, with the processor's vector instructions: on the event loop, a megabyte takes `binascii` 5 ms.
        with suppress(binascii.Error):
            return pybase64.b64decode(encoded, validate=True)
    encoded = encoded.translate(None, _ASCII_WHITESPACE)
    if (size := _size(encoded)) > max_bytes:
        raise PayloadTooLarge(f"the base64 data holds {size:,} bytes; the limit is {max_bytes:,} bytes")
    if len(encoded) % 4:
        # Python's strict mode lets one surplus "=" pass.
        raise _invalid_base64("incorrect padding, its length is not a multiple of four")
    try:
        return binascii.a2b_base64(encoded, strict_mode=True)
    except binascii.Error as error:
        if b"-" in encoded or b"_" in encoded:
            raise _invalid_base64("it contains '-' or '_'; use the standard alphabet with '+' and '/'") from None
        raise _invalid_base64(str(error).lower()) from None


def _size(encoded: bytes) -> int:
    return len(encoded) // 4 * 3 - encoded[-2:].count(b"=")


def _invalid_base64(why: str) -> InvalidMedia:
    return InvalidMedia(f"the data is not valid base64: {why}", code="invalid_base64")


def _invalid_data_uri(why: str) -> InvalidRequest:
    return InvalidRequest(f"the data URI cannot be read: {why}", code="invalid_data_uri")
