"""`/v1/reconstructions`: scenes from photos. Each is a job, so it can be listed, watched and ended at `/v1/jobs`."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from typing import Annotated, Any, Final

from fastapi import APIRouter, Request, Response
from pydantic import Field

from deployments.jobs.types import ENDED, Job
from deployments.reconstruction.messages import Mapper, Matching, Method, Quality, Spec, Status, Up
from serve.config.cluster import Limits
from serve.context import RequestContext
from serve.errors import ArgusError, DeadlineExceeded, InvalidRequest, NotFound, UnsupportedMedia
from serve.jobs.operation import JobInput, Report
from serve.jobs.service import JobService, digest_of
from serve.media.source import MediaBytes
from serve.protocol import routes
from serve.protocol.bodies import AS_LIST, Fields, validate
from serve.protocol.body_stream import context_of, read_body
from serve.protocol.events import RECONNECT, RETRY, document, error_event, event_stream, server_event
from serve.protocol.forms import read_upload_form
from serve.protocol.job_files import Files, accepted
from serve.protocol.jobs import job_object
from serve.protocol.native import json
from serve.protocol.openapi import ERRORS, file_response, json_response, upload_body
from serve.protocol.scene_bodies import ZIP_TYPES, artifact_object, scene_object
from serve.reconstructions import Reconstructed, ReconstructionService, Wanted

OPERATION: Final = "reconstructions"
_FILES: Final = ("photos", "photos[]", "photo", "images", "images[]", "image", "video", "archive", "file", "files")
_KEY_HEADER: Final = "idempotency-key"
_MOST_NAME: Final = 200
# Seconds between looks at a reconstruction that is watched.
_LOOK_S: Final = 1.0


PhotoNames = Annotated[list[Annotated[str, Field(max_length=_MOST_NAME)]], AS_LIST]


class ReconstructFields(Fields):
    """What is made of the photos."""

    name: str = Field(description="Of the scene: at most 63 of a-z, 0-9, '_', '.', '-'.")
    method: Method = Field("3dgs", description="3D Gaussians, or a radiance field (nerf).")
    quality: Quality = Field("standard", description="Size of pictures, steps and Gaussians: how long it may take.")
    matching: Matching = Field(
        "auto", description="Which photos are compared: every pair, or each with its neighbours in order."
    )
    mapper: Mapper = Field("incremental", description="Photo by photo, or all at once (global), which suits many.")
    up: Up = Field("auto", description="Axis that points up in the aligned frame; auto: as the camera was held.")
    photo_names: PhotoNames | None = Field(
        None, max_length=5000, description="Of the photos in their order, for messages; the files' when left out."
    )
    max_photos: int | None = Field(None, ge=3, le=5000, description="Use no more; frames of a video.")
    attribution: str = Field("", max_length=2000, description="Who took the photos, and under which licence.")
    replace: bool = Field(
        False, description="A scene of that name gives way, also one that another reconstruction makes meanwhile."
    )

    def wanted(self) -> Wanted:
        """As the service takes it."""
        spec = Spec(self.method, self.quality, self.matching, self.mapper, self.up)
        if self.max_photos is not None:
            spec = replace(spec, max_photos=self.max_photos)
        return Wanted(self.name, spec, self.attribution, self.replace, tuple(self.photo_names or ()))


class Reconstruct:
    """The job."""

    def __init__(self, service: ReconstructionService) -> None:
        self._service = service

    async def admit(self, fields: Mapping[str, Any], files: Files, context: RequestContext) -> JobInput:
        """See `serve.jobs.operation.Operation.admit`."""
        checked = validate(fields, ReconstructFields)
        photos = [file for _, file in accepted(files, _FILES)]
        if checked.photo_names is None:
            checked.photo_names = [_name_of(photo, number) for number, photo in enumerate(photos, 1)]
        media = tuple(photo.data for photo in photos)
        await self._service.admit(checked.wanted(), media, context)
        return JobInput(checked.model_dump(), media, makes=f"scene {checked.name}", insists=checked.replace)

    async def run(
        self, given: JobInput, context: RequestContext, report: Report, done: Mapping[str, Any]
    ) -> dict[str, Any]:
        """See `serve.jobs.operation.Operation.run`."""
        wanted = validate(given.fields, ReconstructFields).wanted()
        made = await self._service.run(wanted, given.media, context, report)
        return reconstruction_object(made)


def build(service: ReconstructionService, jobs: JobService, limits: Limits) -> APIRouter:
    """The routes, over the reconstruction service."""
    router = routes.router("/v1/reconstructions", "reconstructions")
    operation = Reconstruct(service)

    @router.post(
        "",
        status_code=202,
        summary="Make a scene from photos or a video",
        openapi_extra=upload_body(ReconstructFields, "application/zip", "video/mp4"),
        responses={202: json_response("The job; `Location` is where it can be asked for.", {})[200], **ERRORS},
    )
    async def submit(request: Request) -> Response:
        context = context_of(request)
        fields, files = await _read(request, limits.max_upload_bytes)
        key = request.headers.get(_KEY_HEADER)
        digest = await asyncio.to_thread(digest_of, OPERATION, fields, files)  # of hundreds of photos
        job = None if key is None else await jobs.find(key, digest, context)
        if job is None:
            checked = validate(fields, ReconstructFields, text=True)
            given = await operation.admit(checked.model_dump(), files, context)
            job = await jobs.submit(OPERATION, given, context, digest=digest, key=key)
        response = json(_object(job, None, None, context), 202)
        response.headers["location"] = f"/v1/reconstructions/{job.id}"
        return response

    @router.get(
        "/{id}",
        summary="A reconstruction: how far it is, and what it made",
        responses=json_response(
            "The job, with stage, time left and preview; its events are at /v1/reconstructions/{id}/events.", ERRORS
        ),
    )
    async def get(id: str, request: Request) -> Response:
        context = context_of(request)
        job, result = await _own(jobs, id, context)
        return json(_object(job, result, await service.status(id, context), context))

    @router.get(
        "/{id}/events",
        summary="A reconstruction's progress and previews as server-sent events",
        responses={
            **document(
                "`progress` with stage, percentage and time left; `preview` with each new picture of the scene in the "
                "making, a JPEG in base64; at the end `result` or `error`. A stream that ends before, with the "
                "request's deadline, ends with `reconnect` and is to be asked for again."
            ),
            **ERRORS,
        },
    )
    async def events(id: str, request: Request) -> Response:
        context = context_of(request)
        await _own(jobs, id, context)
        return event_stream(_events(service, jobs, id, request))

    @router.get(
        "/{id}/preview",
        summary="The scene in the making",
        responses=file_response(
            "A picture from one place; a newer one has a higher `preview`.", ("image/jpeg",), ERRORS
        ),
    )
    async def preview(id: str, request: Request) -> Response:
        context = context_of(request)
        await _own(jobs, id, context)
        picture = await service.preview(id, context)
        return Response(picture, media_type="image/jpeg", headers={"cache-control": "no-cache"})

    @router.post("/{id}/cancel", summary="End a reconstruction", responses=json_response("The job.", ERRORS))
    async def cancel(id: str, request: Request) -> Response:
        context = context_of(request)
        await _own(jobs, id, context)
        await jobs.cancel(id, context)
        job, result = await _own(jobs, id, context)
        return json(_object(job, result, None, context))

    return router


def reconstruction_object(made: Reconstructed) -> dict[str, Any]:
    """What came of it, as clients see it."""
    evaluation = made.report["evaluation"]
    return {
        "object": "reconstruction.result",
        "scene": scene_object(made.scene),
        "metrics": {key: evaluation[key] for key in ("held_out", "psnr", "ssim", "lpips")},
        "turntable": artifact_object(made.turntable),
        "report": made.report,
    }


async def _events(
    service: ReconstructionService, jobs: JobService, job_id: str, request: Request
) -> AsyncGenerator[bytes, None]:
    """What has changed since the last look, until the job ends or the reader's time does."""
    context = context_of(request)
    yield RETRY
    told: dict[str, Any] = {}
    status: Status | None = None
    preview = 0
    try:
        while True:
            job, result = await _own(jobs, job_id, context)
            if job.state in ENDED:
                content = _object(job, result, None, context)
                yield server_event(content, "result" if job.state == "succeeded" else "error")
                return
            picture = None
            try:
                status = await service.status(job_id, context)
                if status is not None and status.preview > preview:
                    picture = await service.preview(job_id, context)
            except ArgusError as error:
                if not error.retryable:
                    raise
                # The model is away; that is no end of the job, which waits for it.
            content = _object(job, None, status, context)
            if {**content, "work": _steps(status)} != told:
                told = {**content, "work": _steps(status)}
                yield server_event(content, "progress")
            if picture is not None and status is not None:
                preview = status.preview
                data = base64.b64encode(picture).decode()
                yield server_event({"preview": preview, "media_type": "image/jpeg", "data": data}, "preview")
            if context.left_s() <= _LOOK_S:
                yield RECONNECT
                return
            await asyncio.sleep(_LOOK_S)
    except DeadlineExceeded:
        yield RECONNECT
    except ArgusError as error:  # the status line has been sent
        yield error_event(error, request, "error")


def _steps(status: Status | None) -> tuple[Any, ...]:
    """What is worth an event: time passes all the while."""
    if status is None:
        return ()
    return status.stage, status.done, status.total, int(100 * status.fraction), status.advice


async def _own(jobs: JobService, job_id: str, context: RequestContext) -> tuple[Job, bytes | None]:
    """The caller's job, if it is a reconstruction."""
    job, result = await jobs.get(job_id, context)
    if job.operation != OPERATION:
        raise NotFound(f"Job {job_id[:80]!r} is no reconstruction.", code="reconstruction_not_found", param="id")
    return job, result


def _name_of(photo: MediaBytes, number: int) -> str:
    """As its owner knows it: some browsers send the folders too."""
    return re.split(r"[/\\]", photo.filename or "")[-1][-_MOST_NAME:] or f"photo {number}"


def _object(job: Job, result: bytes | None, status: Status | None, context: RequestContext) -> dict[str, Any]:
    work = None
    if status is not None:
        work = {
            "stage": status.stage,
            "done": status.done,
            "total": status.total,
            "percent": round(100 * status.fraction, 1),
            "eta_s": None if status.eta_s is None else round(status.eta_s, 1),
            "elapsed_s": round(status.elapsed_s, 1),
            "advice": status.advice,
            "preview": status.preview,
            "preview_url": f"/v1/reconstructions/{job.id}/preview" if status.preview else None,
        }
    return {**job_object(job, result, context), "object": "reconstruction", "work": work}


async def _read(request: Request, limit: int) -> tuple[dict[str, Any], list[tuple[str, MediaBytes]]]:
    """Fields and files: a form, or an archive or a video as the body with the fields in the query.

    Raises:
        UnsupportedMedia, InvalidRequest, PayloadTooLarge.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in (*ZIP_TYPES, "application/octet-stream") or kind.startswith("video/"):
        return dict(request.query_params), [("file", MediaBytes(await read_body(request, limit, upload=True), kind))]
    if kind != "multipart/form-data":
        raise UnsupportedMedia(
            f"Content type {kind or 'none'!r} is not accepted; send multipart/form-data with photos, application/zip "
            "or video/*.",
            param="content-type",
        )
    fields: dict[str, Any] = {}
    files: list[tuple[str, MediaBytes]] = []
    for name, value in await read_upload_form(request, limit):
        if isinstance(value, MediaBytes):
            files.append((name, value))
        elif name in fields:
            raise InvalidRequest(f"Field {name[:80]!r} stands twice.", code="invalid_field", param=name[:80])
        else:
            fields[name] = value
    return fields, files
