"""`/v1/vision`: what Florence-2 sees in images: one task about each, or several tasks at once."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import Field

from deployments.florence2.messages import BEAMS, MAX_NEW_TOKENS, Answer, SeenImage
from deployments.florence2.tasks import TASKS, Task
from serve.context import RequestContext
from serve.errors import ArgusError, InvalidRequest
from serve.protocol import routes
from serve.protocol.bodies import AS_LIST, Fields, ImageList, NumberList, Submission, read_submission, references
from serve.protocol.body_stream import context_of
from serve.protocol.edge import error_fields
from serve.protocol.native import json
from serve.protocol.openapi import ERRORS, image_body, json_response
from serve.vision import Asked, Manner, Named, Seen, VisionService

PNG = "image/png"


class AnswerFields(Fields):
    """How answers are written, whatever the task."""

    model: str | None = Field(None, description="A Florence-2; the cluster's first one when left out.")
    image: str | None = Field(None, description="One image: URL, data URI or base64. Files go beside the fields.")
    images: ImageList | None = Field(None, description="Several images.")
    mode: Literal["beam", "fast"] = Field("beam", description="Beam search as published, or greedily: faster, worse.")
    beams: int | None = Field(None, ge=1, le=8, description=f"Beams of the search; {BEAMS} when left out.")
    max_tokens: int = Field(MAX_NEW_TOKENS, ge=8, le=4096, description="Most tokens of an answer.")
    render: bool = Field(False, description="Draw each answer onto its image, as PNG.")


class TaskFields(AnswerFields):
    """One task about one or several images."""

    text: str | None = Field(None, description="For tasks that need a text: a caption, an expression, a category.")
    region: NumberList | None = Field(None, description="For tasks about a region: x1, y1, x2, y2 in pixels.")


class OneTask(Fields):
    """One of several tasks."""

    task: str = Field(description="Its name; GET /v1/vision lists them.")
    text: str | None = Field(None, description="For tasks that need a text.")
    region: NumberList | None = Field(None, description="For tasks about a region: x1, y1, x2, y2 in pixels.")


class TasksFields(AnswerFields):
    """Several tasks about one or several images."""

    tasks: Annotated[list[OneTask], AS_LIST] = Field(
        min_length=1, description="The tasks, each with what it needs; in forms and queries a JSON list."
    )


def build(vision: VisionService) -> APIRouter:
    """The routes, over the vision service."""
    router = routes.router("/v1", "native")

    async def submitted(request: Request) -> Submission:
        return await read_submission(request, vision.limits.max_body_bytes)

    @router.get("/vision", summary="The tasks, what each needs and what it answers")
    async def tasks() -> Response:
        return json({"object": "list", "data": [_described(task) for task in TASKS.values()]})

    @router.post(
        "/vision",
        summary="Several tasks about images, each decoded and encoded once",
        openapi_extra=image_body(TasksFields),
        responses=json_response("The answers to all tasks about each image.", ERRORS),
    )
    async def several(request: Request) -> Response:
        context = context_of(request)
        submission = await submitted(request)
        fields = submission.checked(TasksFields)
        asked = [Asked(one.task, one.text, one.region, f"tasks[{i}].") for i, one in enumerate(fields.tasks)]
        images = submission.images + references(fields.image, fields.images)
        seen = await vision.see(images, asked, _manner(fields), context, model=fields.model)
        results = [
            _failed(i, image, context)
            if isinstance(image, ArgusError)
            else _head(i, image) | {"answers": _answers(seen.tasks, image.answers, context)}
            for i, image in enumerate(seen.images)
        ]
        return json(_body(seen, results, context))

    @router.post(
        "/vision/{task}",
        summary="One task about images",
        openapi_extra=image_body(TaskFields),
        responses=json_response("The answer about each image; with `Accept: image/png` the drawing alone.", ERRORS),
    )
    async def single(request: Request, task: str) -> Response:
        context = context_of(request)
        submission = await submitted(request)
        fields = submission.checked(TaskFields)
        images = submission.images + references(fields.image, fields.images)
        asked = [Asked(task, fields.text, fields.region)]
        drawing = _wants_png(request, images)
        seen = await vision.see(images, asked, _manner(fields, render=drawing), context, model=fields.model)
        if drawing:
            return _drawing(seen)
        results = [
            _failed(i, image, context)
            if isinstance(image, ArgusError)
            else _head(i, image) | _answer(seen.tasks[0], image.answers[0], context)
            for i, image in enumerate(seen.images)
        ]
        return json({"task": seen.tasks[0].name} | _body(seen, results, context))

    return router


def _described(task: Task) -> dict[str, Any]:
    needs = None if task.needs == "nothing" else task.needs
    return {
        "task": task.name,
        "token": task.token,
        "needs": needs,
        "answers": task.answers.split("_or_"),
        "description": task.summary,
    }


def _manner(fields: AnswerFields, *, render: bool = False) -> Manner:
    """Raises `InvalidRequest` when mode and beams contradict each other."""
    if fields.mode == "fast" and (fields.beams or 1) > 1:
        message = f"Mode 'fast' is greedy, so beams must be 1 or left out, not {fields.beams}."
        raise InvalidRequest(message, code="invalid_field", param="beams")
    beams = 1 if fields.mode == "fast" else fields.beams or BEAMS
    return Manner(beams, fields.max_tokens, fields.render or render)


def _wants_png(request: Request, images: Sequence[Named]) -> bool:
    """Browsers name image/png among much else; who wants the drawing names no JSON.

    Raises:
        InvalidRequest: a drawing of several images.
    """
    accepted = request.headers.get("accept", "")
    if PNG not in accepted or "json" in accepted or "*/*" in accepted:
        return False
    if len(images) > 1:
        message = f"One image can be answered as {PNG}, not {len(images)}; accept application/json."
        raise InvalidRequest(message, code="invalid_field", param="accept")
    return True


def _drawing(seen: Seen) -> Response:
    image = seen.images[0]
    assert isinstance(image, SeenImage), "the service raises when nothing was answered"
    answer = image.answers[0]
    assert isinstance(answer, Answer) and answer.annotated is not None, "it was asked for"
    return Response(answer.annotated, media_type=PNG)


def _head(index: int, image: SeenImage) -> dict[str, Any]:
    return {"index": index, "size": {"width": image.width, "height": image.height}}


def _failed(index: int, error: ArgusError, context: RequestContext) -> dict[str, Any]:
    return {"index": index, "error": error_fields(error, context.request_id)}


def _answers(
    tasks: Sequence[Task], answers: Sequence[Answer | Exception], context: RequestContext
) -> list[dict[str, Any]]:
    return [{"task": task.name} | _answer(task, answer, context) for task, answer in zip(tasks, answers, strict=True)]


def _answer(task: Task, answer: Answer | Exception, context: RequestContext) -> dict[str, Any]:
    if isinstance(answer, Answer):
        return answer_fields(task, answer)
    assert isinstance(answer, ArgusError), "the service raises no others"
    return {"error": error_fields(answer, context.request_id)}


def answer_fields(task: Task, answer: Answer) -> dict[str, Any]:
    """What a task answers, as JSON; places are pixels of the image as displayed."""
    fields: dict[str, Any] = {}
    if task.answers == "text":
        fields["text"] = answer.text
    if task.answers in ("boxes", "boxes_or_polygons"):
        fields["boxes"] = [{"box": _rounded(found.box), "label": found.label} for found in answer.boxes]
    if task.answers == "quads":
        fields["quads"] = [{"points": [*map(_rounded, quad.points)], "text": quad.text} for quad in answer.quads]
    if task.answers in ("polygons", "boxes_or_polygons"):
        fields["polygons"] = [
            {"rings": [[*map(_rounded, ring)] for ring in found.rings], "label": found.label}
            for found in answer.polygons
        ]
    fields["finish_reason"] = answer.finish_reason
    if answer.annotated is not None:
        fields["annotated"] = f"data:{PNG};base64,{base64.b64encode(answer.annotated).decode()}"
    return fields


def _rounded(numbers: Sequence[float]) -> list[float]:
    """To hundredths of a pixel: of a bin, a thousandth of the image, nothing is lost by that."""
    return [round(number, 2) for number in numbers]


def _body(seen: Seen, results: list[dict[str, Any]], context: RequestContext) -> dict[str, Any]:
    answers = [answer for image in seen.images if isinstance(image, SeenImage) for answer in image.answers]
    tokens = sum(answer.tokens for answer in answers if isinstance(answer, Answer))
    return {
        "object": "vision",
        "model": seen.model,
        "results": results,
        "usage": {"completion_tokens": tokens},
        "request_id": context.request_id,
    }
