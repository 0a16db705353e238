"""`/v1/documents`: the text of a document, its tables, or a summary of it."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from serve.config.cluster import Limits
from serve.context import RequestContext
from serve.documents.service import DocumentService
from serve.documents.types import Asked
from serve.protocol import document_bodies as bodies
from serve.protocol import routes
from serve.protocol.bodies import read_submission
from serve.protocol.body_stream import context_of
from serve.protocol.document_bodies import DocumentFields
from serve.protocol.native import json
from serve.protocol.openapi import ERRORS, document_body, json_response


def build(documents: DocumentService, limits: Limits) -> APIRouter:
    """The routes, over a documents service."""
    router = routes.router("/v1/documents", "documents")

    async def admitted(request: Request) -> tuple[bytes, Asked, RequestContext]:
        context = context_of(request)
        submission = await read_submission(request, limits.max_body_bytes, "document")
        fields = submission.checked(DocumentFields)
        asked = fields.asked()
        param, source = bodies.one_document(submission.documents, fields.document)
        return await documents.admit(source, context, param), asked, context

    async def read(request: Request, kind: str, *, tables: bool) -> Response:
        document, asked, context = await admitted(request)
        found = await documents.read(document, asked, context, wanted="tables" if tables else "text")
        content = bodies.joined([bodies.part(found, context.request_id, tables=tables)], tables=tables)
        about = {"kind": found.document.kind, "pages": found.document.total}
        body = bodies.answer(kind, found.backend, about, content, found.usage)
        return json(body | {"request_id": context.request_id})

    @router.post(
        "/text",
        summary="The text of a document in reading order",
        openapi_extra=document_body(DocumentFields),
        responses=json_response("Lines of each page, with their places where they are known.", ERRORS),
    )
    async def text(request: Request) -> Response:
        return await read(request, "text", tables=False)

    @router.post(
        "/table",
        summary="The tables of a document",
        openapi_extra=document_body(DocumentFields),
        responses=json_response("Headers and rows of each table, in the document's order.", ERRORS),
    )
    async def table(request: Request) -> Response:
        return await read(request, "tables", tables=True)

    @router.post(
        "/summary",
        summary="Type, title, date, summary and key facts of a document",
        openapi_extra=document_body(DocumentFields),
        responses=json_response("The summary, and which pages it is of.", ERRORS),
    )
    async def summary(request: Request) -> Response:
        document, asked, context = await admitted(request)
        found = await documents.summarise(document, asked, context)
        return json(bodies.summarised(found) | {"request_id": context.request_id})

    return router
