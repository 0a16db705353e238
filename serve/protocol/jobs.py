"""`/v1/jobs`: work that outlasts a request, submitted now and asked for later."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import Field, field_validator

from deployments.jobs.types import ENDED, Job
from serve.config.cluster import Limits
from serve.context import RequestContext
from serve.errors import ArgusError, Conflict, DeadlineExceeded, InvalidRequest, NotFound
from serve.jobs.failures import restored
from serve.jobs.operation import JobInput, Operation
from serve.jobs.service import JobService, digest_of, unknown_operation
from serve.media.source import MediaBytes
from serve.protocol import routes
from serve.protocol.bodies import Fields, json_object, read_query, validate
from serve.protocol.body_stream import context_of, read_body
from serve.protocol.edge import error_fields
from serve.protocol.events import RECONNECT, RETRY, document, error_event, event_stream, server_event
from serve.protocol.forms import read_upload_form
from serve.protocol.job_files import Files
from serve.protocol.native import json
from serve.protocol.openapi import ERRORS, json_body, json_response

_LISTED: Final = 100
_KEY_HEADER: Final = "idempotency-key"


class JobFields(Fields):
    """Work to be done later. Files may go beside the fields, named as in the operation's own route."""

    operation: str = Field(description="What to run: the name of a route, such as `videos.summary`.")
    request: dict[str, Any] = Field({}, description="The body of that route; in a form, as JSON.")
    ttl_s: float | None = Field(None, ge=1, description="Seconds that the result is kept; the cluster's usual ones.")
    idempotency_key: str | None = Field(
        None,
        min_length=1,
        max_length=255,
        description="Submitted again under the same key, the request is the same job. Also as header Idempotency-Key.",
    )

    @field_validator("request", mode="before")
    @classmethod
    def _from_form(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError as error:
            raise ValueError(f"not JSON: {error}") from None


class ListFields(Fields):
    """Which jobs to list."""

    after: str | None = Field(None, max_length=128, description="Those older than this job, which must be there still.")
    limit: int = Field(20, ge=1, le=_LISTED, description="Most jobs.")


def build(service: JobService, operations: Mapping[str, Operation], limits: Limits) -> APIRouter:
    """The routes, over a job service.

    Args:
        operations: what jobs can be, by name.
    """
    router = routes.router("/v1/jobs", "jobs")
    _add_submission(router, service, operations, limits)
    _add_reading(router, service)

    @router.post("/{id}/cancel", summary="End a job", responses=json_response("The job.", ERRORS))
    async def cancel(id: str, request: Request) -> Response:
        context = context_of(request)
        await service.cancel(id, context)
        return json(job_object(*await service.get(id, context), context))

    @router.delete("/{id}", summary="End a job and delete it", responses=json_response("What was deleted.", ERRORS))
    async def delete(id: str, request: Request) -> Response:
        await service.delete(id, context_of(request))
        return json({"object": "job", "id": id, "deleted": True})

    return router


def _add_submission(
    router: APIRouter, service: JobService, operations: Mapping[str, Operation], limits: Limits
) -> None:
    @router.post(
        "",
        status_code=202,
        summary="Submit a job",
        openapi_extra=_body(list(operations)),
        responses={202: json_response("The job; `Location` is where it can be asked for.", {})[200], **ERRORS},
    )
    async def submit(request: Request) -> Response:
        context = context_of(request)
        fields, files = await _read(request, limits)
        operation = operations.get(fields.operation)
        if operation is None:
            raise unknown_operation(fields.operation, list(operations), "operation")
        key = fields.idempotency_key
        digest = await asyncio.to_thread(digest_of, fields.operation, fields.request, files)  # files may be large
        job = None if key is None else await service.find(key, digest, context)
        if job is None:
            given = await _admitted(operation, fields, files, context)
            job = await service.submit(fields.operation, given, context, digest=digest, key=key, ttl_s=fields.ttl_s)
        response = json(job_object(job, None, context), 202)
        response.headers["location"] = f"/v1/jobs/{job.id}"
        return response


def _add_reading(router: APIRouter, service: JobService) -> None:
    @router.get(
        "",
        summary="Your newest jobs",
        responses=json_response("A list of jobs without results; `after` and `limit` go into the query.", ERRORS),
    )
    async def list_jobs(request: Request) -> Response:
        context = context_of(request)
        fields = read_query(request, ListFields)
        found = await service.list_jobs(context, fields.after, fields.limit + 1)
        data = [job_object(job, None, context) for job in found[: fields.limit]]
        return json({"object": "list", "data": data, "has_more": len(found) > fields.limit})

    @router.get("/{id}", summary="One job", responses=json_response("The job, with its result or error.", ERRORS))
    async def get(id: str, request: Request) -> Response:
        context = context_of(request)
        return json(job_object(*await service.get(id, context), context))

    @router.get(
        "/{id}/result",
        summary="A job's result alone",
        responses=json_response("What the operation's own route would have answered, its errors included.", ERRORS),
    )
    async def result(id: str, request: Request) -> Response:
        job, value = await service.get(id, context_of(request))
        if value is None:
            raise _why_no_result(job)
        return Response(value, media_type="application/json")

    @router.get(
        "/{id}/events",
        summary="A job's progress as server-sent events",
        responses={
            **document(
                "`progress` whenever the job changes, at its end `result` or `error`; each with the "
                "job. A stream that ends before the job, with the request's deadline, ends with `reconnect` and is "
                "gone on with by Last-Event-ID; 204 when nothing is left."
            ),
            **ERRORS,
        },
    )
    async def events(id: str, request: Request) -> Response:
        context = context_of(request)
        job, _ = await service.get(id, context)
        seen = _version(request.headers.get("last-event-id"), job)
        if job.state in ENDED and seen >= job.version:
            return Response(status_code=204)  # which ends an EventSource (WHATWG HTML, section 9.2.2)
        return event_stream(_events(service, job, request, seen))


async def _read(request: Request, limits: Limits) -> tuple[JobFields, Files]:
    """A submission as JSON, or as a form with files."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    fields: dict[str, Any]
    files: list[tuple[str, MediaBytes]] = []
    is_form = kind == "multipart/form-data"
    if is_form:
        fields = {}
        for name, value in await read_upload_form(request, limits.max_upload_bytes):
            if isinstance(value, MediaBytes):
                files.append((name, value))
            elif name in fields:
                raise InvalidRequest(f"Field {name[:80]!r} stands twice.", code="invalid_field", param=name[:80])
            else:
                fields[name] = value
    else:
        fields = json_object(await read_body(request, limits.max_body_bytes))
    if (key := request.headers.get(_KEY_HEADER)) is not None:
        fields.setdefault("idempotency_key", key)
    return validate(fields, JobFields, text=is_form), files


async def _admitted(operation: Operation, fields: JobFields, files: Files, context: RequestContext) -> JobInput:
    """The request as its own route would check it; what is wrong is blamed on the field here."""
    try:
        return await operation.admit(fields.request, files, context)
    except ArgusError as error:
        if error.param is None or error.param in {name for name, _ in files}:
            raise
        raise error.at(f"request.{error.param}") from error.__cause__


async def _events(service: JobService, job: Job, request: Request, seen: int) -> AsyncGenerator[bytes, None]:
    context = context_of(request)
    yield RETRY
    try:
        async for now in service.watch(job, context, seen):
            if now.state in ENDED:
                name = "result" if now.state == "succeeded" else "error"
                yield server_event(job_object(*await service.get(now.id, context), context), name, now.version)
                return
            yield server_event(job_object(now, None, context), "progress", now.version)
        yield RECONNECT
    except DeadlineExceeded:
        yield RECONNECT
    except ArgusError as error:  # the status has been sent
        yield error_event(error, request, "error")


def _version(last_event_id: str | None, job: Job) -> int:
    """What a reader who comes back has seen; one who names what never was begins anew."""
    if last_event_id is None or not last_event_id.isascii() or not last_event_id.isdecimal():
        return 0
    seen = int(last_event_id[:18])
    return seen if seen <= job.version else 0


def job_object(job: Job, result: bytes | None, context: RequestContext) -> dict[str, Any]:
    """A job as clients see it."""
    failure = _why_no_result(job) if job.state in ENDED and job.state != "succeeded" else None
    return {
        "object": "job",
        "id": job.id,
        "operation": job.operation,
        "status": job.state,
        "cancel_requested": job.cancelling,
        "progress": {"stage": job.progress.stage, "done": job.progress.done, "total": job.progress.total},
        "attempts": job.attempts,
        "created_at": _time(job.created_at),
        "started_at": _time(job.started_at),
        "ended_at": _time(job.ended_at),
        "expires_at": _time(job.expires_at),
        "result": None if result is None else orjson.Fragment(result),
        "error": None if failure is None else error_fields(failure, context.request_id),
    }


def _why_no_result(job: Job) -> ArgusError:
    if job.state == "failed" and job.failure is not None:
        return restored(job.failure)
    if job.state == "cancelled":
        return Conflict("The job was cancelled.", code="job_cancelled", param="id")
    if job.state in ENDED:
        return NotFound("The result is past its time and gone.", code="result_expired", param="id")
    return Conflict("The job has not ended yet.", code="job_not_ended", param="id", retry_after_s=1.0)


def _time(seconds: float | None) -> str | None:
    """RFC 3339, in UTC."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _body(operations: list[str]) -> dict[str, Any]:
    """JSON, or a form with files."""
    extra = json_body(JobFields)
    content = extra["requestBody"]["content"]
    schema = content["application/json"]["schema"]
    schema["properties"]["operation"]["enum"] = operations
    form = {**schema["properties"], "request": {"type": "string", "description": "The body of the route, as JSON."}}
    form["file"] = {"type": "string", "format": "binary", "description": "The route's file."}
    content["multipart/form-data"] = {"schema": {**schema, "properties": form}}
    return extra
