"""What clients send to `/v1/documents` and get back; routes and jobs share it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from deployments.documents.messages import Box, Page, Table, TextLayer, TextLine
from deployments.documents.pages import parse_pages
from serve.calls import Usage
from serve.documents.types import Asked, Read, Summarised
from serve.errors import ArgusError, InvalidRequest, ModelFailed
from serve.media.admit import MediaSource, Reference
from serve.protocol.bodies import Fields
from serve.protocol.cascade_bodies import usage_fields
from serve.protocol.edge import error_fields

What = Literal["text", "table", "summary"]
OPERATIONS: tuple[What, ...] = ("text", "table", "summary")
Part = dict[str, Any]
"""Of an answer about text or tables: its `pages`, and `tables` where these were asked for, as JSON can hold them."""

# Places are given to a hundredth of a point or pixel.
_DIGITS = 2


class DocumentFields(Fields):
    """Which document, which pages of it, and who reads them."""

    document: str | None = Field(
        None, description="A PDF or an image: URL, data URI or base64. A file goes beside the fields."
    )
    pages: str | None = Field(
        None, min_length=1, max_length=10_000, description="Such as 1-3,5 or 7-, of a PDF or a TIFF; all by default."
    )
    max_pages: int | None = Field(None, ge=1, description="Read no more than the first so many of them.")
    text_layer: TextLayer = Field(
        "auto",
        description="Of a PDF: auto uses its own text where it can be trusted, never recognises the picture, always "
        "uses its own text whatever it says.",
    )
    dpi: int | None = Field(None, ge=50, le=600, description="Resolution at which a PDF's page is drawn.")
    backend: str | None = Field(
        None, min_length=1, description="The only back end that is asked; by default those of the cluster, in order."
    )

    def asked(self) -> Asked:
        """How the pages are read.

        Raises:
            InvalidRequest: `invalid_pages`.
        """
        pages = () if self.pages is None else parse_pages(self.pages)
        return Asked(pages, self.max_pages, self.text_layer, self.dpi, self.backend)


def one_document(files: Sequence[tuple[str, MediaSource]], named: str | None) -> tuple[str, MediaSource]:
    """The one document of a request, and the field that it came from."""
    found = [*files, *([] if named is None else [("document", Reference(named))])]
    if not found:
        raise InvalidRequest("Send a document.", code="missing_field", param="document")
    if len(found) > 1:
        raise InvalidRequest("Send one document.", code="too_many_documents", param="document")
    return found[0]


def part(read: Read, request_id: str, *, tables: bool) -> Part:
    """Pages that were read at once."""
    pages = [
        _page_of(page, tables=tables) if isinstance(page, Page) else _failed(number, page, request_id)
        for number, page in zip(read.document.numbers, read.document.pages, strict=True)
    ]
    if not tables:
        return {"pages": pages}
    good = [page for page in read.document.pages if isinstance(page, Page)]
    return {"tables": [_table_fields(page.number, table) for page in good for table in page.tables], "pages": pages}


def joined(parts: Iterable[Part], *, tables: bool) -> Part:
    """Parts in the order of their pages, as one."""
    whole = [*parts]
    pages = [page for one in whole for page in one["pages"]]
    if tables:
        return {"tables": [table for one in whole for table in one["tables"]], "pages": pages}
    return {"text": "\n\n".join(page["text"] for page in pages if "text" in page), "pages": pages}


def answer(kind: str, backend: str, document: Mapping[str, Any], content: Part, usage: Usage) -> dict[str, Any]:
    """The body about text or tables, without its `request_id`.

    Args:
        document: its kind, and how many pages it has.
    """
    return {
        "object": f"document.{kind}",
        "backend": backend,
        "document": dict(document),
        **content,
        "usage": usage_fields(usage),
    }


def summarised(found: Summarised) -> dict[str, Any]:
    """The body of a summary, without its `request_id`."""
    summary = found.summary
    return {
        "object": "document.summary",
        "backend": found.backend,
        "document": {"kind": found.kind, "pages": found.total},
        "type": summary.type,
        "title": summary.title,
        "date": summary.date,
        "summary": summary.summary,
        "key_facts": [{"name": fact.name, "value": fact.value} for fact in summary.key_facts],
        "pages": list(found.numbers),
        "usage": usage_fields(found.usage),
    }


def _page_of(page: Page, *, tables: bool) -> dict[str, Any]:
    if tables:
        return _page_fields(page)
    lines = [_line_fields(line) for line in page.lines]
    return _page_fields(page) | {"source": page.source, "text": page.text, "lines": lines}


def _page_fields(page: Page) -> dict[str, Any]:
    return {
        "page": page.number,
        "width": round(page.width, _DIGITS),
        "height": round(page.height, _DIGITS),
        "unit": page.unit,
        "pixels": list(page.pixels),
    }


def _failed(number: int, error: Exception, request_id: str) -> dict[str, Any]:
    known = error if isinstance(error, ArgusError) else ModelFailed(str(error))
    return {"page": number, "error": error_fields(known, request_id)}


def _line_fields(line: TextLine) -> dict[str, Any]:
    quad = None if line.quad is None else [[round(x, _DIGITS), round(y, _DIGITS)] for x, y in line.quad]
    return {"text": line.text, "quad": quad, "score": line.score}


def _table_fields(page: int, table: Table) -> dict[str, Any]:
    return {
        "page": page,
        "box": _box(table.box),
        "headers": list(table.headers),
        "rows": [list(row) for row in table.rows],
        "cells": [
            {"row": cell.row, "column": cell.column, "text": cell.text, "box": _box(cell.box)} for cell in table.cells
        ],
    }


def _box(box: Box | None) -> list[float] | None:
    return None if box is None else [round(side, _DIGITS) for side in box]
