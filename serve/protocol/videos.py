"""`/v1/videos`: what is asked of a video, answered whole or as server-sent events, or only estimated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import cast

from fastapi import APIRouter, Request, Response
from pydantic import Field, create_model
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from serve.config.cluster import Limits
from serve.errors import ArgusError, DeadlineExceeded, InvalidRequest
from serve.media.admit import MediaSource, Reference
from serve.protocol import routes
from serve.protocol.bodies import Fields, Submission, read_submission
from serve.protocol.body_stream import context_of
from serve.protocol.events import HEADERS, MEDIA_TYPE, error_event, server_event
from serve.protocol.native import json
from serve.protocol.openapi import ERRORS, json_response, video_body
from serve.protocol.video_bodies import OPERATIONS, PartFields, video_request
from serve.videos.service import VideoService
from serve.videos.types import Operation, Progress, VideoRequest

_SUMMARIES: dict[Operation, str] = {
    "classify": "Classes of a video",
    "actions": "Which actions happen when",
    "features": "Features of a video",
    "ask": "Answer a question about a video, or a moment of it",
    "describe": "Describe a video, part by part",
    "summary": "Summarise a video",
    "keyframes": "Pictures that stand for a video, with times and descriptions",
}
# Events that wait for a reader who is slower than the work; then the work waits.
_BACKLOG = 16


class AnswerFields(Fields):
    """How a request about a video is answered."""

    video: str | None = Field(None, description="The video: URL, data URI or base64. A file goes beside the fields.")
    stream: bool = Field(False, description="Server-sent events: progress, partial, and result or error.")
    dry_run: bool = Field(False, description="Estimate chunks, tokens and cost, and ask no model.")


def build(service: VideoService, limits: Limits) -> APIRouter:
    """The routes, over a videos service."""
    router = routes.router("/v1/videos", "videos")
    for operation, fields in OPERATIONS.items():
        _add(router, service, limits, operation, fields)
    return router


def _add(
    router: APIRouter, service: VideoService, limits: Limits, operation: Operation, kind: type[PartFields]
) -> None:
    documented = _together(kind)

    @router.post(
        f"/{operation}",
        name=f"videos_{operation}",
        summary=_SUMMARIES[operation],
        openapi_extra=video_body(documented),
        responses=json_response("The answer; with `stream`, server-sent events.", ERRORS),
    )
    async def answer(request: Request) -> Response:
        context = context_of(request)
        submission = await read_submission(request, limits.max_body_bytes, "video")
        # Checked together, so that an unknown field is told all the fields that there are.
        how = submission.checked(documented)
        param, source = _video(submission, how.video)
        video = await service.admit(source, context, param)
        asked = video_request(operation, how.model_dump(exclude=set(AnswerFields.model_fields)), video)
        service.check(asked)
        if how.dry_run:
            return json(await service.estimate(asked, context) | {"request_id": context.request_id})
        if how.stream or _wants_events(request):
            return EventStream(service, asked, request)
        try:
            return json(await service.run(asked, context) | {"request_id": context.request_id})
        except DeadlineExceeded as error:
            raise _with_way_out(error, operation) from error.__cause__


def _together(kind: type[PartFields]) -> type[AnswerFields]:
    """All that a route takes."""
    return cast("type[AnswerFields]", create_model(kind.__name__, __base__=(AnswerFields, kind)))


def _video(submission: Submission, named: str | None) -> tuple[str, MediaSource]:
    """The one video of a request, and the field that it came from."""
    found = submission.videos + ([] if named is None else [("video", Reference(named))])
    if not found:
        raise InvalidRequest("Send a video.", code="missing_field", param="video")
    if len(found) > 1:
        raise InvalidRequest("Send one video.", code="too_many_videos", param="video")
    return found[0]


def _wants_events(request: Request) -> bool:
    return request.headers.get("accept", "").partition(",")[0].partition(";")[0].strip() == MEDIA_TYPE


def _with_way_out(error: DeadlineExceeded, operation: str) -> ArgusError:
    return DeadlineExceeded(
        f"{error.message} Work that is longer than a request may wait for goes to POST /v1/jobs, as operation "
        f"videos.{operation}.",
        code=error.code,
        param=error.param,
    )


class EventStream(StreamingResponse):
    """A request's progress and result as server-sent events (WHATWG HTML, section 9.2), each with a name:

    * `progress`: `stage`, `done`, `total`;
    * `partial`: a finished chunk's value, in the order in which they finish;
    * `result`: the body that the route answers with otherwise; the last event;
    * `error`: the error in its place.

    A reader who leaves ends the work.
    """

    def __init__(self, service: VideoService, asked: VideoRequest, request: Request) -> None:
        self._events = _events(service, asked, request)
        super().__init__(self._events, media_type=MEDIA_TYPE, headers=dict(HEADERS))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._events.aclose()


async def _events(service: VideoService, asked: VideoRequest, request: Request) -> AsyncGenerator[bytes, None]:
    context = context_of(request)
    queue: asyncio.Queue[bytes | None] = asyncio.Queue(_BACKLOG)

    async def tell(progress: Progress) -> None:
        told = {"stage": progress.stage, "done": progress.done, "total": progress.total}
        await queue.put(server_event(told, "progress"))
        if progress.chunk is not None:
            await queue.put(server_event(progress.chunk.value, "partial"))

    async def run() -> None:
        try:
            body = await service.run(asked, context, tell)
            last = server_event(body | {"request_id": context.request_id}, "result")
        except ArgusError as error:
            shown = _with_way_out(error, asked.operation) if isinstance(error, DeadlineExceeded) else error
            last = error_event(shown, request, "error")
        await queue.put(last)
        await queue.put(None)

    running = asyncio.create_task(run())
    try:
        while (found := await _next(queue, running)) is not None:
            yield found
    finally:
        running.cancel()
        await asyncio.wait((running,))


async def _next(queue: asyncio.Queue[bytes | None], running: asyncio.Task[None]) -> bytes | None:
    """The next event.

    Raises:
        Exception: what ended the work without a last event.
    """
    waiting = asyncio.create_task(queue.get())
    try:
        await asyncio.wait((waiting, running), return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done() and queue.empty():
            running.result()
        return await waiting
    finally:
        waiting.cancel()
