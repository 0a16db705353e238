"""`/v1/compare`: one prompt, several models and providers, their answers, times and costs side by side."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import Field

from deployments.generation.messages import Sampling
from serve.chat import Medium, Turn
from serve.compare import MOST_MODELS, Compared, CompareService
from serve.config.cluster import Limits
from serve.context import RequestContext
from serve.errors import ArgusError, raise_if_all_failed
from serve.protocol import routes
from serve.protocol.bodies import Fields, ImageList, TextList, read_submission, references
from serve.protocol.body_stream import context_of
from serve.protocol.chat import finish_word
from serve.protocol.edge import error_fields
from serve.protocol.native import json
from serve.protocol.openapi import ERRORS, image_body, json_response


class CompareFields(Fields):
    """One request to several models."""

    models: TextList = Field(
        description=f"Names of models and providers, at most {MOST_MODELS}; in forms and queries separated by commas."
    )
    prompt: str = Field(min_length=1, description="What they are asked.")
    system: str | None = Field(None, min_length=1, description="Instructions that go before it.")
    image: str | None = Field(None, description="One image: URL, data URI or base64. Files go beside the fields.")
    images: ImageList | None = Field(None, description="Several images.")
    max_tokens: int = Field(256, ge=1, description="Most tokens of an answer.")
    temperature: float = Field(0.0, ge=0, le=2, description="0 is greedy.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus sampling.")
    seed: int | None = Field(
        None, ge=-(2**63), lt=2**63, description="Makes answers repeatable, where that is offered."
    )


def build(compare: CompareService, limits: Limits) -> APIRouter:
    """The route, over a comparing service."""
    router = routes.router("/v1", "native")

    @router.post(
        "/compare",
        summary="One request to several models and providers",
        openapi_extra=image_body(CompareFields),
        responses=json_response("Answer, seconds, tokens and US dollars of each, or its error.", ERRORS),
    )
    async def comparison(request: Request) -> Response:
        context = context_of(request)
        submission = await read_submission(request, limits.max_body_bytes)
        fields = submission.checked(CompareFields)
        images = submission.images + references(fields.image, fields.images)
        turns = [Turn("system", (fields.system,))] if fields.system is not None else []
        turns.append(Turn("user", (*(Medium("image", source, param) for param, source in images), fields.prompt)))
        sampling = Sampling(fields.max_tokens, fields.temperature, fields.top_p, fields.seed)
        return json(compared(await compare.compare(fields.models, turns, sampling, context), context))

    return router


def compared(results: tuple[Compared, ...], context: RequestContext) -> dict[str, Any]:
    """The response body.

    Raises:
        ArgusError: every model failed; the first one's error.
    """
    raise_if_all_failed(tuple(result.outcome for result in results))
    return {
        "object": "comparison",
        "results": [_result(result, context) for result in results],
        "request_id": context.request_id,
    }


def _result(result: Compared, context: RequestContext) -> dict[str, Any]:
    head = {"model": result.model, "seconds": result.seconds}
    called = result.outcome
    if isinstance(called, ArgusError):
        return {**head, "error": error_fields(called, context.request_id)}
    answer = called.value.answers[0]
    return {
        **head,
        "answer": answer.text,
        "finish_reason": finish_word(answer.finish_reason),
        "usage": {
            "prompt_tokens": called.usage.prompt_tokens,
            "completion_tokens": called.usage.completion_tokens,
            "usd": called.usage.usd,
        },
        "cached": called.cached,
        "attempts": called.attempts,
    }
