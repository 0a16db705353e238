"""Documents at the edge: a PDF or an image, told by the first bytes. A PDF is opened in a worker process only."""

from __future__ import annotations

from typing import Literal

from serve.errors import InvalidMedia, PayloadTooLarge
from serve.media.headers import sniff_format
from serve.media.image import ImageLimits, inspect_image

DocumentKind = Literal["pdf", "image"]

# Readers accept a header that begins within the first 1,024 bytes (PDF 1.7, appendix H.3, note 13).
_PDF_WINDOW = 1024
_PDF_MAGIC = b"%PDF-"
_PDF_TYPES = frozenset({"application/pdf", "application/x-pdf"})
_VAGUE_TYPES = frozenset({"", "*/*", "application/octet-stream", "binary/octet-stream"})


def document_kind(data: bytes) -> DocumentKind:
    """What a file is.

    Raises:
        InvalidMedia: `empty_document`, `not_a_document`.
        UnsupportedMedia: `unsupported_image_format`.
    """
    if not data:
        raise InvalidMedia("The document is empty.", code="empty_document")
    if _PDF_MAGIC in data[: _PDF_WINDOW + len(_PDF_MAGIC)]:
        return "pdf"
    try:
        sniff_format(data)
    except InvalidMedia as error:
        message = f"{len(data):,} bytes that are neither a PDF nor an image in a known format."
        raise InvalidMedia(message, code="not_a_document") from error
    return "image"


def inspect_document(data: bytes, limits: ImageLimits, *, declared_type: str | None = None) -> DocumentKind:
    """Checks a document without opening it; an image's header is read as `inspect_image` does.

    Raises:
        InvalidMedia: see `document_kind` and `inspect_image`; `document_type_mismatch`: it was declared a PDF, or an
            image, and is the other.
        UnsupportedMedia, PayloadTooLarge.
    """
    if len(data) > limits.max_bytes:
        message = f"The document has {len(data):,} bytes; at most {limits.max_bytes:,} are accepted."
        raise PayloadTooLarge(message)
    kind = document_kind(data)
    declared = (declared_type or "").partition(";")[0].strip().lower()
    if declared not in _VAGUE_TYPES and (declared in _PDF_TYPES) != (kind == "pdf"):
        found = "a PDF" if kind == "pdf" else "an image"
        raise InvalidMedia(f"Declared as {declared[:64]!r}, but it is {found}.", code="document_type_mismatch")
    if kind == "image":
        inspect_image(data, limits, declared_type=declared_type)
    return kind
