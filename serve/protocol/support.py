"""`/v1/knowledge` and `/v1/support`: documents in, cited answers out."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import Field

from deployments.knowledge_types import Base, Chunk, Document
from serve.context import RequestContext
from serve.knowledge import KnowledgeService
from serve.protocol import routes
from serve.protocol.bodies import Fields, read_json, read_query
from serve.protocol.body_stream import context_of
from serve.protocol.native import json
from serve.protocol.openapi import ERRORS, json_body, json_response
from serve.protocol.sessions import said_object
from serve.support import Reply, SupportService

# Characters of a chunk shown with a citation.
_SNIPPET = 300


class DocumentFields(Fields):
    """A document's content."""

    text: str = Field(min_length=1, description="Plain text; paragraphs have an empty line between them.")
    title: str | None = Field(
        None, min_length=1, max_length=300, description="Searched, and shown to the model, with each chunk."
    )


class DocumentsFields(Fields):
    """Which documents to list."""

    after: str = Field("", max_length=128, description="Those whose id comes after this one.")
    limit: int = Field(100, ge=1, le=1000, description="Most documents.")


class KnowledgeSearchFields(Fields):
    """A search for chunks."""

    query: str = Field(description="What is looked for.")
    k: int = Field(5, ge=1, le=50, description="Most chunks.")


class SupportFields(Fields):
    """A customer's message."""

    knowledge: str = Field(description="Knowledge base to answer from.")
    message: str = Field(description="What the customer says.")
    session: str | None = Field(None, description="A session that remembers the conversation.")
    model: str | None = Field(None, description="Chat model that answers, in place of the cluster file's.")
    escalate_to: str | None = Field(None, description="Stronger chat model, in place of the cluster file's.")


def build(knowledge: KnowledgeService, support: SupportService, max_body_bytes: int) -> APIRouter:
    """The routes, over both services."""
    router = routes.router("/v1", "support")
    _add_bases(router, knowledge, max_body_bytes)
    _add_documents(router, knowledge, max_body_bytes)

    @router.post(
        "/support",
        summary="Answer a customer from a knowledge base",
        openapi_extra=json_body(SupportFields),
        responses=json_response("The answer, its citations, and what was understood.", ERRORS),
    )
    async def answer(request: Request) -> Response:
        context = context_of(request)
        fields = await read_json(request, max_body_bytes, SupportFields)
        reply = await support.answer(
            fields.knowledge,
            fields.message,
            context,
            session=fields.session,
            model=fields.model,
            escalate_to=fields.escalate_to,
        )
        return json(_reply(reply, context))

    return router


def _add_bases(router: APIRouter, service: KnowledgeService, max_body_bytes: int) -> None:
    @router.get("/knowledge", summary="Every knowledge base", responses=json_response("A list.", ERRORS))
    async def bases(request: Request) -> Response:
        found = await service.bases(context_of(request))
        return json({"object": "list", "data": [_base(base) for base in found]})

    @router.get("/knowledge/{name}", summary="One knowledge base", responses=json_response("The base.", ERRORS))
    async def base(name: str, request: Request) -> Response:
        return json(_base(await service.base(name, context_of(request))))

    @router.delete("/knowledge/{name}", summary="Delete a base", responses=json_response("What was deleted.", ERRORS))
    async def drop(name: str, request: Request) -> Response:
        deleted = await service.drop(name, context_of(request))
        return json({"object": "knowledge", "name": name, "deleted": deleted > 0, "documents": deleted})

    @router.post(
        "/knowledge/{name}/search",
        summary="Search a base for chunks",
        openapi_extra=json_body(KnowledgeSearchFields),
        responses=json_response("Chunks, best first.", ERRORS),
    )
    async def search(name: str, request: Request) -> Response:
        fields = await read_json(request, max_body_bytes, KnowledgeSearchFields)
        found = await service.search(name, fields.query, fields.k, context_of(request), param="query")
        return json(
            {
                "object": "chunks",
                "knowledge": name,
                "coverage": found.coverage,
                "similarity": found.similarity,
                "chunks": [{**_chunk(chunk), "text": chunk.text} for chunk in found.chunks],
            }
        )


def _add_documents(router: APIRouter, service: KnowledgeService, max_body_bytes: int) -> None:
    @router.get(
        "/knowledge/{name}/documents",
        summary="Documents of a base, by id",
        responses=json_response("A list; `after` and `limit` go into the query.", ERRORS),
    )
    async def documents(name: str, request: Request) -> Response:
        fields = read_query(request, DocumentsFields)
        found = await service.documents(name, fields.after, fields.limit, context_of(request))
        return json({"object": "list", "data": [_document(document) for document in found]})

    @router.put(
        "/knowledge/{name}/documents/{id}",
        summary="Add or replace a document",
        openapi_extra=json_body(DocumentFields),
        responses=json_response("The document.", ERRORS),
    )
    async def put(name: str, id: str, request: Request) -> Response:
        fields = await read_json(request, max_body_bytes, DocumentFields)
        return json(_document(await service.put(name, id, fields.text, fields.title, context_of(request))))

    @router.get(
        "/knowledge/{name}/documents/{id}", summary="One document", responses=json_response("With its text.", ERRORS)
    )
    async def get(name: str, id: str, request: Request) -> Response:
        document, text = await service.get(name, id, context_of(request))
        return json({**_document(document), "text": text})

    @router.delete(
        "/knowledge/{name}/documents/{id}",
        summary="Delete a document",
        responses=json_response("What was deleted.", ERRORS),
    )
    async def delete(name: str, id: str, request: Request) -> Response:
        await service.delete(name, id, context_of(request))
        return json({"object": "document", "knowledge": name, "id": id, "deleted": True})


def _base(base: Base) -> dict[str, Any]:
    return {"object": "knowledge", **asdict(base)}


def _document(document: Document) -> dict[str, Any]:
    return {
        "object": "document",
        "knowledge": document.base,
        "id": document.id,
        "title": document.title,
        "revision": document.revision,
        "characters": document.characters,
        "chunks": document.chunks,
        "created_at": int(document.created_at),
    }


def _chunk(chunk: Chunk) -> dict[str, Any]:
    return {"id": chunk.id, "document": chunk.document, "title": chunk.title, "start": chunk.start}


def _reply(reply: Reply, context: RequestContext) -> dict[str, Any]:
    prompt, written = reply.tokens
    return {
        "object": "support.answer",
        "model": reply.model,
        "answer": reply.text,
        "citations": [
            {"number": number, **_chunk(chunk), "text": chunk.text[:_SNIPPET]} for number, chunk in reply.cited
        ],
        "intent": reply.intent,
        "sentiment": reply.sentiment,
        "confidence": reply.confidence,
        "escalated": reply.escalated,
        "reasons": reply.reasons,
        "session": None if reply.asking is None else said_object(reply.asking),
        "usage": {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written},
        "request_id": context.request_id,
    }
