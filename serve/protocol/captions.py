"""`/v1/caption` and `/v1/vqa`: one turn about each of several images, over the same chat service."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import Field

from deployments.generation.messages import ChatResult, Sampling
from serve.chat import ChatService
from serve.config.cluster import Limits
from serve.context import RequestContext
from serve.errors import ArgusError, InvalidRequest, raise_if_all_failed
from serve.media.admit import MediaSource
from serve.protocol import routes
from serve.protocol.bodies import Fields, ImageList, UncutList, read_submission, references
from serve.protocol.body_stream import context_of
from serve.protocol.chat import finish_word
from serve.protocol.edge import error_fields
from serve.protocol.native import json
from serve.protocol.openapi import ERRORS, image_body, json_response

_MOST_TOKENS = 256
Named = tuple[str, MediaSource]


class CaptionFields(Fields):
    """Captions of one or several images."""

    model: str | None = Field(None, description="A chat model; the first captioning one when left out.")
    image: str | None = Field(None, description="One image: URL, data URI or base64. Files go beside the fields.")
    images: ImageList | None = Field(None, description="Several images.")
    prompt: str | None = Field(None, min_length=1, description="An instruction in place of the usual one.")
    max_tokens: int = Field(64, ge=1, le=_MOST_TOKENS, description="Most tokens of a caption.")
    temperature: float = Field(0.0, ge=0, le=2, description="0 is greedy.")


class VqaFields(Fields):
    """Questions about images: one about each, one about all, or several about one."""

    question: str | None = Field(None, min_length=1, description="One question, asked of every image.")
    questions: UncutList | None = Field(
        None, min_length=1, description="Several: one for each image, or all about the only one."
    )
    model: str | None = Field(None, description="A chat model; the first question-answering one when left out.")
    image: str | None = Field(None, description="One image: URL, data URI or base64. Files go beside the fields.")
    images: ImageList | None = Field(None, description="Several images.")
    max_tokens: int = Field(32, ge=1, le=_MOST_TOKENS, description="Most tokens of an answer.")
    temperature: float = Field(0.0, ge=0, le=2, description="0 is greedy.")


def build(chat: ChatService, limits: Limits) -> APIRouter:
    """The routes, over a chat service."""
    router = routes.router("/v1", "native")

    @router.post(
        "/caption",
        summary="Captions of images",
        openapi_extra=image_body(CaptionFields),
        responses=json_response("A caption of each image.", ERRORS),
    )
    async def caption(request: Request) -> Response:
        context = context_of(request)
        submission = await read_submission(request, limits.max_body_bytes)
        fields = submission.checked(CaptionFields)
        images = _images(submission.images + references(fields.image, fields.images), limits)
        asked = [(image, fields.prompt) for image in images]
        return json(await _answers(chat, asked, fields, context, "caption"))

    @router.post(
        "/vqa",
        summary="Answers to questions about images",
        openapi_extra=image_body(VqaFields),
        responses=json_response("An answer to each question.", ERRORS),
    )
    async def vqa(request: Request) -> Response:
        context = context_of(request)
        submission = await read_submission(request, limits.max_body_bytes)
        fields = submission.checked(VqaFields)
        images = _images(submission.images + references(fields.image, fields.images), limits)
        asked = pair(images, fields.question, fields.questions)
        if len(asked) > limits.max_inputs:
            raise _too_many(len(asked), "questions", limits)
        return json(await _answers(chat, asked, fields, context, "answer"))

    return router


def _images(images: list[Named], limits: Limits) -> list[Named]:
    if not images:
        raise InvalidRequest("Send at least one image.", code="missing_field", param="image")
    if len(images) > limits.max_inputs:
        raise _too_many(len(images), "images", limits)
    return images


def _too_many(count: int, param: str, limits: Limits) -> InvalidRequest:
    return InvalidRequest(
        f"There are {count} {param}; at most {limits.max_inputs} are accepted in one request.",
        code="too_many_inputs",
        param=param,
    )


def pair(
    images: Sequence[Named], question: str | None, questions: Sequence[str] | None
) -> list[tuple[Named, str | None]]:
    """Which question is asked of which image.

    Raises:
        InvalidRequest: none or both of `question` and `questions`, an empty one, or counts that do not match.
    """
    if (question is None) == (questions is None):
        raise InvalidRequest("Send either question or questions.", code="missing_field", param="question")
    for param, text in _named(question, questions):
        if not text.strip():
            raise InvalidRequest("The question is empty.", code="empty_text", param=param)
    if question is not None:
        return [(image, question) for image in images]
    assert questions is not None
    if len(images) == 1:
        return [(images[0], text) for text in questions]
    if len(images) != len(questions):
        raise InvalidRequest(
            f"There are {len(questions)} questions for {len(images)} images; send one for each, or one image.",
            code="invalid_field",
            param="questions",
        )
    return list(zip(images, questions, strict=True))


def _named(question: str | None, questions: Sequence[str] | None) -> list[tuple[str, str]]:
    """Each question with the field that it came from."""
    alone = [] if question is None else [("question", question)]
    return alone + [(f"questions[{i}]", text) for i, text in enumerate(questions or ())]


async def _answers(
    chat: ChatService,
    asked: Sequence[tuple[Named, str | None]],
    fields: CaptionFields | VqaFields,
    context: RequestContext,
    name: str,
) -> dict[str, Any]:
    """The response body; an image's error stands in its place.

    Raises:
        ArgusError: all failed; the first one's error.
    """
    sampling = Sampling(max_tokens=fields.max_tokens, temperature=fields.temperature)

    async def one(named: Named, question: str | None) -> tuple[str, ChatResult] | ArgusError:
        param, source = named
        try:
            return await chat.ask(source, question, sampling, context, model=fields.model, param=param)
        except ArgusError as error:
            return error

    answers = await asyncio.gather(*(one(named, question) for named, question in asked))
    raise_if_all_failed(tuple(answers))
    results: list[dict[str, Any]] = []
    tokens = [0, 0]
    model = ""
    for i, ((_, question), answer) in enumerate(zip(asked, answers, strict=True)):
        head: dict[str, Any] = {"index": i} if question is None else {"index": i, "question": question}
        if isinstance(answer, ArgusError):
            results.append({**head, "error": error_fields(answer, context.request_id)})
            continue
        model, result = answer
        tokens[0] += result.prompt_tokens
        tokens[1] += result.completion_tokens
        said = result.answers[0]
        results.append({**head, name: said.text.strip(), "finish_reason": finish_word(said.finish_reason)})
    return {
        "object": name,
        "model": model,
        "results": results,
        "usage": {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)},
        "request_id": context.request_id,
    }
