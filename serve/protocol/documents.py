"""`/v1/documents`: the text of a document, its tables, or a summary of it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import Field

from deployments.documents.messages import Box, Page, Table, TextLayer, TextLine
from deployments.documents.pages import parse_pages
from serve.config.cluster import Limits
from serve.context import RequestContext
from serve.documents.service import DocumentService
from serve.documents.types import Asked, Read, Summarised
from serve.errors import ArgusError, InvalidRequest, ModelFailed
from serve.media.admit import MediaSource, Reference
from serve.protocol import routes
from serve.protocol.bodies import Fields, Submission, context_of, read_submission, validate
from serve.protocol.cascade_bodies import usage_fields
from serve.protocol.edge import error_fields
from serve.protocol.native import json
from serve.protocol.openapi import ERRORS, document_body, json_response

# Places are given to a hundredth of a point or pixel.
_DIGITS = 2


class DocumentFields(Fields):
    """Which document, which pages of it, and who reads them."""

    document: str | None = Field(
        None, description="A PDF or an image: URL, data URI or base64. A file goes beside the fields."
    )
    pages: str | None = Field(None, min_length=1, max_length=10_000, description="Such as 1-3,5 or 7-; all by default.")
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


def build(documents: DocumentService, limits: Limits) -> APIRouter:
    """The routes, over a documents service."""
    router = routes.router("/v1/documents", "documents")

    async def admitted(request: Request) -> tuple[bytes, Asked, RequestContext]:
        context = context_of(request)
        submission = await read_submission(request, limits.max_body_bytes, "document")
        fields = validate(submission.fields, DocumentFields)
        pages = () if fields.pages is None else parse_pages(fields.pages)
        param, source = _document(submission, fields.document)
        asked = Asked(pages, fields.max_pages, fields.text_layer, fields.dpi, fields.backend)
        return await documents.admit(source, context, param), asked, context

    @router.post(
        "/text",
        summary="The text of a document in reading order",
        openapi_extra=document_body(DocumentFields),
        responses=json_response("Lines of each page, with their places where they are known.", ERRORS),
    )
    async def text(request: Request) -> Response:
        document, asked, context = await admitted(request)
        read = await documents.read(document, asked, context, tables=False)
        good = [page for page in read.document.pages if isinstance(page, Page)]
        pages = [
            _page_fields(page)
            | {"source": page.source, "text": page.text, "lines": [_line_fields(x) for x in page.lines]}
            if isinstance(page, Page)
            else _failed(number, page, context)
            for number, page in zip(read.document.numbers, read.document.pages, strict=True)
        ]
        content = {"text": "\n\n".join(page.text for page in good), "pages": pages}
        return json(_answer("document.text", read, content, context))

    @router.post(
        "/table",
        summary="The tables of a document",
        openapi_extra=document_body(DocumentFields),
        responses=json_response("Headers and rows of each table, in the document's order.", ERRORS),
    )
    async def table(request: Request) -> Response:
        document, asked, context = await admitted(request)
        read = await documents.read(document, asked, context, tables=True)
        tables = [
            _table_fields(page.number, table)
            for page in read.document.pages
            if isinstance(page, Page)
            for table in page.tables
        ]
        pages = [
            _page_fields(page) if isinstance(page, Page) else _failed(number, page, context)
            for number, page in zip(read.document.numbers, read.document.pages, strict=True)
        ]
        return json(_answer("document.tables", read, {"tables": tables, "pages": pages}, context))

    @router.post(
        "/summary",
        summary="Type, title, date, summary and key facts of a document",
        openapi_extra=document_body(DocumentFields),
        responses=json_response("The summary, and which pages it is of.", ERRORS),
    )
    async def summary(request: Request) -> Response:
        document, asked, context = await admitted(request)
        return json(_summary(await documents.summarise(document, asked, context), context))

    return router


def _document(submission: Submission, named: str | None) -> tuple[str, MediaSource]:
    """The one document of a request, and the field that it came from."""
    found = submission.documents + ([] if named is None else [("document", Reference(named))])
    if not found:
        raise InvalidRequest("Send a document.", code="missing_field", param="document")
    if len(found) > 1:
        raise InvalidRequest("Send one document.", code="too_many_documents", param="document")
    return found[0]


def _answer(kind: str, read: Read, content: dict[str, Any], context: RequestContext) -> dict[str, Any]:
    return {
        "object": kind,
        "backend": read.backend,
        "document": {"kind": read.document.kind, "pages": read.document.total},
        **content,
        "usage": usage_fields(read.usage),
        "request_id": context.request_id,
    }


def _summary(found: Summarised, context: RequestContext) -> dict[str, Any]:
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
        "request_id": context.request_id,
    }


def _page_fields(page: Page) -> dict[str, Any]:
    return {
        "page": page.number,
        "width": round(page.width, _DIGITS),
        "height": round(page.height, _DIGITS),
        "unit": page.unit,
        "pixels": list(page.pixels),
    }


def _failed(number: int, error: Exception, context: RequestContext) -> dict[str, Any]:
    known = error if isinstance(error, ArgusError) else ModelFailed(str(error))
    return {"page": number, "error": error_fields(known, context.request_id)}


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
