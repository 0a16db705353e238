"""`/v1/cascades`: which there are, and their answers with the trace of their steps."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from pydantic import Field

from serve.cascade.service import CascadeService, card_fields
from serve.cascade.types import CascadeResult
from serve.config.cluster import Limits
from serve.errors import raise_if_all_failed
from serve.protocol import routes
from serve.protocol.bodies import Fields, ImageList, read_submission, references
from serve.protocol.body_stream import context_of
from serve.protocol.cascade_bodies import (
    answer_fields,
    ask_each,
    check_count,
    failed_fields,
    gear_of,
    shared_fields,
    with_gear,
)
from serve.protocol.native import json
from serve.protocol.openapi import ERRORS, image_body, json_response


class CascadeFields(Fields):
    """What a cascade is asked: about each of one or several images, or a question without one."""

    image: str | None = Field(None, description="One image: URL, data URI or base64. Files go beside the fields.")
    images: ImageList | None = Field(None, description="Several images, each asked about by itself.")
    question: str | None = Field(None, min_length=1, description="For cascades with steps that answer questions.")
    explain: bool = Field(True, description="Whether each answer comes with the trace of its steps.")


def build(cascades: CascadeService, limits: Limits) -> APIRouter:
    """The routes, over the cascades."""
    router = routes.router("/v1/cascades", "cascades")

    @router.get("", summary="Every cascade", responses=json_response("A list with steps and state.", ERRORS))
    async def list_cascades() -> Response:
        return json({"object": "list", "data": [card_fields(card) for card in cascades.cards()]})

    @router.get("/{name}", summary="One cascade", responses=json_response("Its steps and state.", ERRORS))
    async def card(name: str) -> Response:
        return json(card_fields(cascades.card(name)))

    @router.post(
        "/{name}",
        summary="Ask a cascade",
        openapi_extra=image_body(CascadeFields),
        responses=json_response("An answer for each image, with the steps that led to it.", ERRORS),
    )
    async def ask(name: str, request: Request) -> Response:
        context = context_of(request)
        submission = await read_submission(request, limits.max_body_bytes)
        fields = submission.checked(CascadeFields)
        images = submission.images + references(fields.image, fields.images)
        check_count(images, limits)
        answers = await ask_each(cascades, name, images, fields.question, context)
        raise_if_all_failed(tuple(answers))
        results = [
            {"index": i, **answer_fields(answer, explain=fields.explain)}
            if isinstance(answer, CascadeResult)
            else failed_fields(i, answer, context)
            for i, answer in enumerate(answers)
        ]
        body = {"object": "cascade.answer", "cascade": name, "results": results, **shared_fields(answers, context)}
        return with_gear(json(body), gear_of(answers))

    return router
