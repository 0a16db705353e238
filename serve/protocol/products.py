"""`/v1/products/analyze` and `/v1/search/products`: images of products, over cascades and an index."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import Field

from serve.calls import Usage
from serve.cascade.types import CascadeResult
from serve.config.cluster import Limits
from serve.context import RequestContext
from serve.errors import ArgusError, InvalidRequest
from serve.products import ATTRIBUTES, CAPTION, ProductService
from serve.protocol import routes
from serve.protocol.bodies import Fields, read_submission, references
from serve.protocol.body_stream import context_of
from serve.protocol.cascade_bodies import answer_fields, gear_of, usage_fields, with_gear
from serve.protocol.edge import error_fields
from serve.protocol.indexes import ContentFields, hit_fields, json_field, search_content
from serve.protocol.native import json
from serve.protocol.openapi import ERRORS, image_body, json_response

_MOST_DESCRIBED = 20


class AnalyzeFields(Fields):
    """A product's image."""

    image: str | None = Field(None, description="URL, data URI or base64; or a file beside the fields.")
    caption: str | None = Field(None, description=f"Cascade that writes the caption; `{CAPTION}` when left out.")
    attributes: str | None = Field(None, description=f"Cascade that reads attributes; `{ATTRIBUTES}` when left out.")
    index: str | None = Field(None, description="Index in which similar products are looked for.")
    k: int = Field(5, ge=1, le=100, description="Most similar products.")
    filter: dict[str, Any] | str | None = Field(None, description="Conditions on their metadata.")
    explain: bool = Field(True, description="Whether answers come with the trace of their steps.")


class ProductSearchFields(ContentFields):
    """A search for products by one of vector, image, text."""

    index: str = Field(description="Index to search.")
    k: int = Field(10, ge=1, le=1000, description="Most hits.")
    filter: dict[str, Any] | str | None = Field(None, description="Conditions on metadata.")
    describe: int = Field(3, ge=0, le=_MOST_DESCRIBED, description="Most hits whose images are described.")
    image_field: str = Field("image", min_length=1, description="Field of the metadata that holds a hit's image URL.")
    caption: str | None = Field(None, description=f"Cascade that describes; `{CAPTION}` when left out.")
    explain: bool = Field(True, description="Whether descriptions come with the trace of their steps.")


def build(products: ProductService, limits: Limits) -> APIRouter:
    """The routes, over the product service."""
    router = routes.router("/v1", "applications")

    @router.post(
        "/products/analyze",
        summary="Caption, attributes and similar products of an image",
        openapi_extra=image_body(AnalyzeFields),
        responses=json_response("Each part, or its error in its place.", ERRORS),
    )
    async def analyze(request: Request) -> Response:
        context = context_of(request)
        submission = await read_submission(request, limits.max_body_bytes)
        fields = submission.checked(AnalyzeFields)
        images = submission.images + references(fields.image, None)
        if len(images) != 1:
            raise InvalidRequest(f"Send one image; got {len(images)}.", code="missing_field", param="image")
        param, source = images[0]
        found = await products.analyse(
            source,
            context,
            param=param,
            caption=fields.caption,
            attributes=fields.attributes,
            index=fields.index,
            k=fields.k,
            filter=json_field(fields.filter, "filter"),
        )
        answers = [part for part in (found.caption, found.attributes) if isinstance(part, CascadeResult)]
        similar: Any = found.similar
        if isinstance(similar, ArgusError):
            similar = {"error": error_fields(similar, context.request_id)}
        elif similar is not None:
            similar = {"index": fields.index, "hits": [hit_fields(hit) for hit in similar]}
        body = {
            "object": "product",
            "caption": _part(found.caption, context, explain=fields.explain),
            "attributes": _part(found.attributes, context, explain=fields.explain),
            "similar": similar,
            "usage": usage_fields(sum((answer.usage for answer in answers), Usage())),
            "request_id": context.request_id,
        }
        return with_gear(json(body), gear_of(answers))

    @router.post(
        "/search/products",
        summary="Search products, the first hits described",
        openapi_extra=image_body(ProductSearchFields),
        responses=json_response("Hits, best first, with descriptions of their images.", ERRORS),
    )
    async def search(request: Request) -> Response:
        context = context_of(request)
        submission = await read_submission(request, limits.max_body_bytes)
        fields = submission.checked(ProductSearchFields)
        query, param = search_content(fields, submission.images, "")
        found = await products.search(
            fields.index,
            query,
            fields.k,
            context,
            param=param,
            filter=json_field(fields.filter, "filter"),
            describe=fields.describe,
            image_field=fields.image_field,
            caption=fields.caption,
        )
        answers = [one.description for one in found if isinstance(one.description, CascadeResult)]
        body = {
            "object": "products",
            "index": fields.index,
            "hits": [
                {**hit_fields(one.hit), "description": _part(one.description, context, explain=fields.explain)}
                for one in found
            ],
            "usage": usage_fields(sum((answer.usage for answer in answers), Usage())),
            "request_id": context.request_id,
        }
        return with_gear(json(body), gear_of(answers))

    return router


def _part(part: CascadeResult | ArgusError | None, context: RequestContext, *, explain: bool) -> dict[str, Any] | None:
    if isinstance(part, ArgusError):
        return {"error": error_fields(part, context.request_id)}
    return None if part is None else answer_fields(part, explain=explain)
