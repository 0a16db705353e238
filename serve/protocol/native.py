"""Argus' own HTTP API: zero-shot classification, and whether we are alive and ready."""

from __future__ import annotations

import time
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import BeforeValidator, Field, model_validator

from serve.context import RequestContext
from serve.dataplane import Classified, DataPlane
from serve.errors import ArgusError, InvalidRequest, raise_if_all_failed
from serve.protocol import routes
from serve.protocol.bodies import Fields, ImageList, TextList, listed, read_submission, references
from serve.protocol.body_stream import context_of
from serve.protocol.edge import error_fields
from serve.protocol.openapi import ERRORS, image_body, json_response

_READY_TIMEOUT_S = 5.0


def _own_prompts(value: Any) -> Any:
    """A text that can be no set's name: one prompt, whatever commas are in it, or a JSON array of prompts."""
    return listed(value) if isinstance(value, str) and ("{}" in value or value.lstrip().startswith("[")) else value


class ClassifyFields(Fields):
    """Zero-shot classification of one or several images."""

    labels: TextList = Field(description="Candidate labels, distinct; in forms and queries separated by commas.")
    model: str | None = Field(None, description="A classifying model; the cluster's first one when left out.")
    image: str | None = Field(None, description="One image: URL, data URI or base64. Files go beside the fields.")
    images: ImageList | None = Field(None, description="Several images.")
    templates: Annotated[str | list[str], BeforeValidator(_own_prompts)] = Field(
        "default",
        description="Name of a template set (default, plain, ensemble), or prompts with one {} each: one as a text, "
        "several as a list (in forms and queries a JSON array, or the field repeated).",
    )
    multi_label: bool = Field(False, description="Independent probabilities instead of ones that sum to 1.")
    top_k: int | None = Field(None, ge=1, description="Only the k best labels of each image.")

    @model_validator(mode="after")
    def _one_way_of_naming(self) -> ClassifyFields:
        if self.image is not None and self.images is not None:
            raise ValueError("send either image or images, not both")
        return self


def build(plane: DataPlane) -> APIRouter:
    """The routes, over a data plane."""
    router = routes.router("/v1", "native")

    @router.post(
        "/classify",
        summary="Zero-shot classification",
        openapi_extra=image_body(ClassifyFields),
        responses=json_response("Scores of each image, best first.", ERRORS),
    )
    async def classify(request: Request) -> Response:
        context = context_of(request)
        submission = await read_submission(request, plane.limits.max_body_bytes)
        fields = submission.checked(ClassifyFields)
        images = submission.images + references(fields.image, fields.images)
        if not images:
            raise InvalidRequest("Send at least one image.", code="missing_field", param="image")
        answer = await plane.classify(
            [source for _, source in images],
            fields.labels,
            context,
            model=fields.model,
            templates=fields.templates,
            multi_label=fields.multi_label,
            params=[param for param, _ in images],
        )
        return json(classification(answer, context, fields.top_k))

    @router.get("/healthz", summary="Whether the router is alive")
    async def healthz() -> Response:
        return json({"status": "alive"})

    @router.get("/readyz", summary="Whether every model answers", responses=ERRORS)
    async def readyz(request: Request) -> Response:
        context = context_of(request)
        soon = min(context.deadline, time.monotonic() + _READY_TIMEOUT_S)
        await plane.ready(RequestContext(context.request_id, context.client, soon))
        return json({"status": "ready"})

    return router


def json(content: Any, status: int = 200) -> Response:
    """A JSON response; orjson writes numpy arrays and float32 without a detour."""
    return Response(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), status, media_type="application/json")


def classification(answer: Classified, context: RequestContext, top_k: int | None) -> dict[str, Any]:
    """The response body.

    Raises:
        ArgusError: every image failed; the first one's error.
    """
    raise_if_all_failed(answer.images)
    results: list[dict[str, Any]] = []
    for i, scores in enumerate(answer.images):
        if isinstance(scores, ArgusError):
            results.append({"index": i, "error": error_fields(scores, context.request_id)})
            continue
        order = scores.probabilities.argsort(kind="stable")[::-1][:top_k]
        ranked = [
            {"label": answer.labels[j], "probability": scores.probabilities[j], "logit": scores.logits[j]}
            for j in order.tolist()
        ]
        results.append({"index": i, "label": ranked[0]["label"], "scores": ranked})
    return {
        "object": "classification",
        "model": answer.model,
        "temperature": answer.temperature,
        "results": results,
        "request_id": context.request_id,
    }
