"""Jobs as their clients see them, over the job store."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, Final

from deployments.jobs.types import ENDED, Job, NewJob
from serve import tracing
from serve.config.models import JobStoreModel
from serve.context import RequestContext
from serve.errors import InvalidRequest, NotFound
from serve.handles import ModelHandle
from serve.jobs.operation import JobInput
from serve.media.source import MediaBytes
from serve.stores import StoreClient

_ID_BYTES: Final = 24
# Among the stored fields of a request: the span that it came in. No operation has a field with a dot.
_CAUSE: Final = "argus.traceparent"
# Seconds between looks at a job that is watched.
_LOOK_S: Final = 0.5


class JobService:
    """See the module's text.

    Args:
        handle: the job store; None when the cluster file has none.
        settings: of that store.

    Attributes:
        store: for the workers.
        settings: of it.
        offered: whether there is one.
        on_submit: called when a job was submitted here, so that a worker need not wait for its next look.
    """

    def __init__(self, handle: ModelHandle | None, settings: JobStoreModel | None) -> None:
        self.store = StoreClient(handle, "job_store")
        self.settings = settings or JobStoreModel(kind="job_store")
        self.offered = handle is not None
        self.on_submit: Callable[[], None] = lambda: None

    async def find(self, key: str, digest: bytes, context: RequestContext) -> Job | None:
        """The caller's job under an idempotency key.

        Raises:
            NotFound: `not_configured`.
            Conflict: `idempotency_conflict`; it was another request.
        """
        found: Job | None = await self.store.call("find", context, context.client, key, digest)
        return found

    async def submit(
        self,
        operation: str,
        given: JobInput,
        context: RequestContext,
        *,
        digest: bytes,
        key: str | None = None,
        ttl_s: float | None = None,
    ) -> Job:
        """A new job of the caller, or the one that has the key already.

        Args:
            given: the checked request.
            digest: of the request as it was sent.

        Raises:
            InvalidRequest: `ttl_s` beyond the cluster file's.
            ArgusError: `idempotency_conflict`, `in_the_making`, `too_many_jobs`, `out_of_capacity`, `not_configured`.
        """
        new = NewJob(
            id=f"job_{secrets.token_urlsafe(_ID_BYTES)}",
            owner=context.client,
            operation=operation,
            key=key,
            digest=digest,
            fields=_stored(given.fields),
            media=given.media,
            ttl_s=self._ttl_s(ttl_s),
            makes=given.makes,
            insists=given.insists,
        )
        job: Job = await self.store.call("submit", context, new)
        self.on_submit()
        return job

    async def get(self, job_id: str, context: RequestContext) -> tuple[Job, bytes | None]:
        """A job of the caller and its result, as JSON; None when it has none.

        Raises:
            NotFound: `job_not_found`, also for another client's.
        """
        found: tuple[Job, bytes | None] = await self.store.call("result", context, job_id, context.client)
        return found

    async def list_jobs(self, context: RequestContext, after: str | None, limit: int) -> list[Job]:
        """The caller's newest jobs, newest first, from the one after `after` on.

        Raises:
            NotFound: `job_not_found`: there is no job `after`, or it is gone.
        """
        found: list[Job] = await self.store.call("list_jobs", context, context.client, after, limit)
        return found

    async def cancel(self, job_id: str, context: RequestContext) -> Job:
        """Ends a queued job at once, a running one soon; one that has ended stays as it is."""
        job: Job = await self.store.call("cancel", context, job_id, context.client)
        return job

    async def delete(self, job_id: str, context: RequestContext) -> None:
        """Deletes a job; one that runs is ended."""
        await self.store.delete(context, job_id, context.client)

    async def watch(self, job: Job, context: RequestContext, seen: int) -> AsyncGenerator[Job, None]:
        """The job whenever it has changed, up to its end or the caller's deadline.

        Args:
            job: as it is now.
            seen: the version that the caller has.
        """
        while True:
            if job.version > seen:
                seen = job.version
                yield job
            if job.state in ENDED or context.left_s() <= _LOOK_S:
                return
            await asyncio.sleep(_LOOK_S)
            job = await self.store.call("get", context, job.id, context.client)

    def _ttl_s(self, asked: float | None) -> float:
        if asked is None:
            return self.settings.ttl_s
        if asked > self.settings.max_ttl_s:
            raise InvalidRequest(
                f"ttl_s is {asked:g}; this cluster allows at most {self.settings.max_ttl_s:g}.",
                code="invalid_field",
                param="ttl_s",
            )
        return asked


def digest_of(operation: str, fields: Mapping[str, Any], files: Sequence[tuple[str, MediaBytes]]) -> bytes:
    """Of a request as it was sent: SHA-256 over its fields in one order, and its files."""
    whole = hashlib.sha256()
    files_by_digest = [(name, hashlib.sha256(file.data).hexdigest()) for name, file in files]
    whole.update(json.dumps([operation, fields, files_by_digest], sort_keys=True).encode())
    return whole.digest()


def _stored(fields: Mapping[str, Any]) -> bytes:
    cause = tracing.traceparent()
    return json.dumps(dict(fields) if cause is None else {**fields, _CAUSE: cause}).encode()


def read_fields(stored: bytes) -> dict[str, Any]:
    """A job's request as it was sent."""
    fields: dict[str, Any] = json.loads(stored)
    fields.pop(_CAUSE, None)
    return fields


def cause_of(stored: bytes) -> tracing.Link | None:
    """A link to the span in which a job's request came; None when that was not sampled."""
    if not tracing.enabled() or _CAUSE.encode() not in stored:
        return None
    return tracing.link_to(json.loads(stored).get(_CAUSE))


def unknown_operation(name: str, known: Sequence[str], param: str | None = None) -> NotFound:
    """There is no such operation; a cluster that was started again may offer others than before."""
    return NotFound(
        f"Operation {name[:80]!r} does not exist; there are {', '.join(known) or 'none'}.",
        code="unknown_operation",
        param=param,
    )
