"""`/v1/indexes`: image search over HTTP."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Path, Request, Response
from pydantic import Field

from deployments.vector_types import INDEX_NAME, Hit, IndexInfo, IndexSpec, Item
from serve.errors import InvalidRequest
from serve.indexes import IndexService, NewItem, Query
from serve.media.admit import MediaSource, Reference
from serve.protocol import routes
from serve.protocol.bodies import Fields, Submission, read_json, read_submission
from serve.protocol.body_stream import context_of
from serve.protocol.native import json
from serve.protocol.openapi import ERRORS, image_body, json_body, json_response, merged

# Told only: the store checks it, with an error of its own.
IndexName = Annotated[str, Path(json_schema_extra={"pattern": f"^{INDEX_NAME.pattern}$"})]


class IndexFields(Fields):
    """How an index is built; see deployments.vector_types.IndexSpec."""

    dimension: int | None = Field(None, ge=1, description="Length of the vectors; the model's when left out.")
    model: str | None = Field(None, description="Model that embeds images and texts; the first one when left out.")
    metric: Literal["cosine", "dot", "l2"] = Field("cosine", description="What a score means; higher is better.")
    kind: Literal["flat", "hnsw", "ivf"] = Field("flat", description="Exact, graph, or inverted lists.")
    hnsw_m: int | None = Field(None, description="Neighbours of a node in the graph.")
    ef_construction: int | None = Field(None, description="Candidates kept while a node is linked.")
    ef_search: int | None = Field(None, description="Candidates kept while searching.")
    nlist: int | None = Field(None, description="Inverted lists.")
    nprobe: int | None = Field(None, description="Lists read by a search.")


class ContentFields(Fields):
    """One of vector, image, text."""

    vector: list[float] | None = Field(None, description="The vector itself.")
    image: str | None = Field(None, description="URL, data URI or base64.")
    text: str | None = Field(None, description="A text, embedded by the index's model.")


class ItemFields(ContentFields):
    """An item to add."""

    id: str = Field(description="Adding an id again replaces the item.")
    metadata: dict[str, Any] = Field({}, description="Scalars and lists of scalars that filters look at.")


class ItemsFields(Fields):
    """Items to add, all or none."""

    items: list[ItemFields] = Field(min_length=1)


class ItemFileFields(Fields):
    """One item whose image comes as a file."""

    id: str = Field(description="Adding an id again replaces the item.")
    metadata: str | dict[str, Any] = Field("{}", description="A JSON object.")
    image: str | None = Field(None, description="The file.")


class SearchFields(ContentFields):
    """A search by one of vector, image, text."""

    k: int = Field(10, ge=1, le=1000, description="Most hits.")
    filter: dict[str, Any] | str | None = Field(
        None, description='Conditions on metadata, such as {"category": "shoe", "price": {"lt": 30}}.'
    )
    include_vectors: bool = Field(False, description="Return the vectors of the hits.")


class DeleteFields(Fields):
    """Which items to delete."""

    ids: list[str] | None = Field(None, description="By id.")
    filter: dict[str, Any] | None = Field(None, description="By condition.")


def build(service: IndexService, max_body_bytes: int) -> APIRouter:
    """The routes, over the index service."""
    router = routes.router("/v1/indexes", "image search")

    @router.get("", summary="Every index", responses=json_response("A list of indexes.", ERRORS))
    async def list_indexes(request: Request) -> Response:
        found = await service.list_indexes(context_of(request))
        return json({"object": "list", "data": [_index(info) for info in found]})

    @router.put(
        "/{name}",
        summary="Create an index",
        openapi_extra=json_body(IndexFields, required=False),
        responses=json_response("The index.", ERRORS),
    )
    async def create(name: IndexName, request: Request) -> Response:
        fields = await read_json(request, max_body_bytes, IndexFields, required=False)
        return json(_index(await service.create({"name": name, **fields.model_dump()}, context_of(request))))

    @router.get("/{name}", summary="One index", responses=json_response("The index.", ERRORS))
    async def info(name: IndexName, request: Request) -> Response:
        return json(_index(await service.info(name, context_of(request))))

    @router.delete("/{name}", summary="Delete an index", responses=json_response("What was deleted.", ERRORS))
    async def drop(name: IndexName, request: Request) -> Response:
        await service.drop(name, context_of(request))
        return json({"object": "index", "name": name, "deleted": True})

    @router.post(
        "/{name}/items",
        summary="Add items",
        openapi_extra=merged(image_body(ItemFileFields), json_body(ItemsFields)),
        responses=json_response("How many were added.", ERRORS),
    )
    async def add(name: IndexName, request: Request) -> Response:
        submission = await read_submission(request, max_body_bytes)
        if submission.images:
            items = [_file_item(submission)]
        else:
            fields = submission.checked(ItemsFields)
            items = [_new_item(item, f"items[{i}]") for i, item in enumerate(fields.items)]
        return json({"object": "items", "index": name, "added": await service.add(name, items, context_of(request))})

    @router.get("/{name}/items/{item_id:path}", summary="One item", responses=json_response("The item.", ERRORS))
    async def get(name: IndexName, item_id: str, request: Request) -> Response:
        return json(_item(await service.get(name, item_id, context_of(request))))

    @router.delete("/{name}/items/{item_id:path}", summary="Delete an item", responses=ERRORS)
    async def delete_one(name: IndexName, item_id: str, request: Request) -> Response:
        deleted = await service.delete(name, context_of(request), ids=[item_id], filter=None)
        return json({"object": "items", "index": name, "deleted": deleted})

    @router.post(
        "/{name}/delete",
        summary="Delete items by ids or filter",
        openapi_extra=json_body(DeleteFields),
        responses=json_response("How many were deleted.", ERRORS),
    )
    async def delete(name: IndexName, request: Request) -> Response:
        fields = await read_json(request, max_body_bytes, DeleteFields)
        deleted = await service.delete(name, context_of(request), ids=fields.ids, filter=fields.filter)
        return json({"object": "items", "index": name, "deleted": deleted})

    @router.post(
        "/{name}/search",
        summary="Search by image, text or vector",
        openapi_extra=image_body(SearchFields),
        responses=json_response("Hits, best first.", ERRORS),
    )
    async def search(name: IndexName, request: Request) -> Response:
        submission = await read_submission(request, max_body_bytes)
        fields = submission.checked(SearchFields)
        query, param = search_content(fields, submission.images, "")
        hits = await service.search(
            name,
            query,
            fields.k,
            context_of(request),
            param=param,
            filter=json_field(fields.filter, "filter"),
            include_vectors=fields.include_vectors,
        )
        return json({"object": "hits", "index": name, "hits": [hit_fields(hit) for hit in hits]})

    return router


def _new_item(fields: ItemFields, where: str) -> NewItem:
    content, param = search_content(fields, [], f"{where}.")
    return NewItem(fields.id, content, fields.metadata, param)


def _file_item(submission: Submission) -> NewItem:
    if len(submission.images) > 1:
        raise InvalidRequest("Send one file a request, or several items as JSON.", param="image")
    fields = submission.checked(ItemFileFields)
    param, source = submission.images[0]
    return NewItem(fields.id, source, json_field(fields.metadata, "metadata") or {}, param)


def search_content(fields: ContentFields, files: list[tuple[str, MediaSource]], prefix: str) -> tuple[Query, str]:
    """The one content given, and the name of its field."""
    given: list[tuple[str, Query]] = list(files)
    if fields.vector is not None:
        given.append((f"{prefix}vector", fields.vector))
    if fields.image is not None:
        given.append((f"{prefix}image", Reference(fields.image)))
    if fields.text is not None:
        given.append((f"{prefix}text", fields.text))
    if len(given) != 1:
        found = ", ".join(name for name, _ in given) or "none"
        where = prefix.rstrip(".") or "vector"
        message = f"Exactly one of vector, image and text is needed; got {found}."
        raise InvalidRequest(message, code="missing_field", param=where)
    name, content = given[0]
    return content, name


def json_field(value: dict[str, Any] | str | None, param: str) -> dict[str, Any] | None:
    """Forms and queries carry objects as JSON text."""
    if not isinstance(value, str):
        return value
    try:
        parsed = orjson.loads(value)
    except orjson.JSONDecodeError:
        parsed = None
    if not isinstance(parsed, dict):
        raise InvalidRequest(f"{param} must be a JSON object.", code="invalid_json", param=param)
    return parsed


def _index(info: IndexInfo) -> dict[str, Any]:
    spec: IndexSpec = info.spec
    return {
        "object": "index",
        "name": spec.name,
        "dimension": spec.dimension,
        "metric": spec.metric,
        "kind": spec.kind,
        "model": spec.model,
        "checkpoint": spec.checkpoint,
        "count": info.count,
        "bytes": info.bytes,
    }


def _item(item: Item) -> dict[str, Any]:
    return {"object": "item", "id": item.id, "vector": item.vector, "metadata": item.metadata}


def hit_fields(hit: Hit) -> dict[str, Any]:
    """One hit."""
    shown = {"id": hit.id, "score": hit.score, "metadata": hit.metadata}
    return shown if hit.vector is None else {**shown, "vector": hit.vector}
