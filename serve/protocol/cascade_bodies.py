"""How cascades look in JSON, whatever route they answer on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from fastapi import Response

from serve.calls import Usage
from serve.cascade.service import CascadeService
from serve.cascade.types import CascadeResult, TraceEntry
from serve.config.cluster import Limits
from serve.context import RequestContext
from serve.errors import ArgusError, InvalidRequest
from serve.media.admit import MediaSource
from serve.protocol.edge import error_fields

GEAR_HEADER = "x-argus-gear"
NORMAL_GEAR = "normal"
Named = tuple[str, MediaSource]
Answered = CascadeResult | ArgusError


def check_count(images: Sequence[Named], limits: Limits) -> None:
    """Bounds the images of one request.

    Raises:
        InvalidRequest: `too_many_inputs`.
    """
    if len(images) > limits.max_inputs:
        raise InvalidRequest(
            f"There are {len(images)} images; at most {limits.max_inputs} are accepted in one request.",
            code="too_many_inputs",
            param="images",
        )


async def ask_each(
    cascades: CascadeService, name: str, images: Sequence[Named], question: str | None, context: RequestContext
) -> list[Answered]:
    """One answer for each image, or its error; without images, one answer to the question alone."""

    async def one(param: str, image: MediaSource | None) -> Answered:
        try:
            return await cascades.ask(name, image, question, context, param=param)
        except ArgusError as error:
            return error

    cascades.card(name)  # a name that does not exist is the request's error, not an image's
    if not images:
        return [await one("image", None)]
    return list(await asyncio.gather(*(one(param, image) for param, image in images)))


def answer_fields(result: CascadeResult, *, explain: bool) -> dict[str, Any]:
    """One answer; its trace unless it is not wanted."""
    fields: dict[str, Any] = {
        "answer": result.value,
        "confidence": result.confidence,
        "outcome": result.outcome,
        "step": result.step,
        "model": result.model,
        "accepted": result.accepted,
        "degraded": result.degraded,
        "seconds": round(result.seconds, 6),
        "usage": usage_fields(result.usage),
    }
    return fields | ({"trace": [trace_fields(entry) for entry in result.trace]} if explain else {})


def trace_fields(entry: TraceEntry) -> dict[str, Any]:
    """One call of a step; what does not apply to it is left out."""
    fields = {
        "step": entry.step,
        "model": entry.model,
        "result": entry.result,
        "why": entry.why,
        "answer": entry.answer,
        "confidence": entry.confidence,
        "margin": entry.margin,
        "threshold": entry.threshold,
        "seconds": round(entry.seconds, 6),
        "cached": entry.cached,
        "usage": usage_fields(entry.usage) if entry.result != "skipped" else None,
        "failure": entry.failure,
        "error": entry.error,
    }
    return {name: value for name, value in fields.items() if value is not None}


def usage_fields(usage: Usage) -> dict[str, Any]:
    """Tokens and money."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.tokens,
        "usd": usage.usd,
    }


def failed_fields(index: int, error: ArgusError, context: RequestContext) -> dict[str, Any]:
    """An image's error in its place."""
    return {"index": index, "error": error_fields(error, context.request_id)}


def shared_fields(answers: Sequence[Answered], context: RequestContext) -> dict[str, Any]:
    """What holds for all answers of one request."""
    good = [answer for answer in answers if isinstance(answer, CascadeResult)]
    return {
        "calibrated": all(answer.calibrated for answer in good),
        "gear": gear_of(answers),
        "usage": usage_fields(sum((answer.usage for answer in good), Usage())),
        "request_id": context.request_id,
    }


def gear_of(answers: Sequence[Answered]) -> str:
    """The gear of a request: of the last answer, when it changed in between."""
    gears = [answer.gear for answer in answers if isinstance(answer, CascadeResult)]
    return (gears[-1] if gears else None) or NORMAL_GEAR


def with_gear(response: Response, gear: str) -> Response:
    """The response with the header that says which gear answered."""
    response.headers[GEAR_HEADER] = gear
    return response
