"""`/v1/moderate`: allow, block or review, over a cascade with a policy."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import Field

from serve.cascade.service import CascadeService
from serve.cascade.types import CascadeResult
from serve.config.cluster import Limits
from serve.errors import InvalidRequest, NotFound, raise_if_all_failed
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

# The cascade that is asked when the client names none; else the file's first one with a policy.
_USUAL = "moderation"


class ModerateFields(Fields):
    """Images to moderate."""

    image: str | None = Field(None, description="One image: URL, data URI or base64. Files go beside the fields.")
    images: ImageList | None = Field(None, description="Several images, each by itself.")
    cascade: str | None = Field(None, description=f"A cascade with a policy; `{_USUAL}` when left out.")
    explain: bool = Field(True, description="Whether each outcome comes with the trace of its steps.")


def build(cascades: CascadeService, limits: Limits) -> APIRouter:
    """The route, over the cascades."""
    router = routes.router("/v1", "applications")

    @router.post(
        "/moderate",
        summary="Moderate images",
        openapi_extra=image_body(ModerateFields),
        responses=json_response("allow, block or review for each image, with its label.", ERRORS),
    )
    async def moderate(request: Request) -> Response:
        context = context_of(request)
        submission = await read_submission(request, limits.max_body_bytes)
        fields = submission.checked(ModerateFields)
        images = submission.images + references(fields.image, fields.images)
        if not images:
            raise InvalidRequest("Send at least one image.", code="missing_field", param="image")
        check_count(images, limits)
        name = chosen(cascades, fields.cascade)
        answers = await ask_each(cascades, name, images, None, context)
        raise_if_all_failed(tuple(answers))
        results = [
            _result(i, answer, explain=fields.explain)
            if isinstance(answer, CascadeResult)
            else failed_fields(i, answer, context)
            for i, answer in enumerate(answers)
        ]
        body = {"object": "moderation", "cascade": name, "results": results, **shared_fields(answers, context)}
        return with_gear(json(body), gear_of(answers))

    return router


def chosen(cascades: CascadeService, name: str | None) -> str:
    """The cascade that moderates.

    Raises:
        NotFound: there is no such cascade, or none with a policy.
        InvalidRequest: the named one has no policy.
    """
    with_policy = [card.name for card in cascades.cards() if card.cascade.policy is not None]
    if name is None:
        if not with_policy:
            raise NotFound("No cascade of this cluster has a policy.", code="not_configured", param="cascade")
        return _USUAL if _USUAL in with_policy else with_policy[0]
    if name not in cascades.names():
        known = ", ".join(with_policy) or "none"
        message = f"Cascade {name[:80]!r} does not exist; there are {known}."
        raise NotFound(message, code="cascade_not_found", param="cascade")
    if name not in with_policy:
        message = f"Cascade {name!r} has no policy; those with one are {', '.join(with_policy) or 'none'}."
        raise InvalidRequest(message, code="invalid_field", param="cascade")
    return name


def _result(index: int, answer: CascadeResult, *, explain: bool) -> dict[str, Any]:
    fields = answer_fields(answer, explain=explain)
    label = fields.pop("answer")
    outcome = fields.pop("outcome")
    return {"index": index, "outcome": outcome, "flagged": outcome != "allow", "label": label, **fields}
