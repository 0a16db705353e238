"""The deployment that holds the jobs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from deployments.folder_lock import wait_for_predecessor
from deployments.jobs.metrics import JobMetrics
from deployments.jobs.rules import Rules
from deployments.jobs.store import JobStore
from deployments.jobs.types import Claim, Failure, Job, NewJob, Progress, StoreStats
from deployments.store_replica import StoreThread
from serve.config.models import JobStoreModel


class JobStoreReplica:
    """`JobStore` behind async methods of the same names. Run exactly one.

    Raises:
        Overloaded: too many calls are waiting; nothing ran.
    """

    def __init__(self, config: JobStoreModel, clock: Callable[[], float] = time.time) -> None:
        self._metrics = JobMetrics()
        wait_for_predecessor(Path(config.path))
        self._store = JobStore(
            Path(config.path),
            max_jobs=config.max_jobs,
            max_active=config.max_active_jobs,
            max_bytes=config.max_bytes,
            rules=Rules(config.max_attempts),
            on_end=self._metrics.ended,
            clock=clock,
        )
        self._thread = StoreThread("job store", config.batching.max_queue)

    async def find(self, owner: str, key: str, digest: bytes) -> Job | None:
        """See `JobStore.find`; likewise below."""
        return await self._thread.run(lambda: self._store.find(owner, key, digest))

    async def submit(self, new: NewJob) -> Job:
        """On disk when it returns."""
        return await self._thread.run(lambda: self._store.submit(new))

    async def get(self, job_id: str, owner: str) -> Job:
        """Without its result."""
        return await self._thread.run(lambda: self._store.get(job_id, owner))

    async def result(self, job_id: str, owner: str) -> tuple[Job, bytes | None]:
        """With its result."""
        return await self._thread.run(lambda: self._store.result(job_id, owner))

    async def list_jobs(self, owner: str, after: str | None, limit: int) -> list[Job]:
        """Newest first."""
        return await self._thread.run(lambda: self._store.list_jobs(owner, after, limit))

    async def cancel(self, job_id: str, owner: str) -> Job:
        """At once, or soon."""
        return await self._thread.run(lambda: self._store.cancel(job_id, owner))

    async def delete(self, job_id: str, owner: str) -> None:
        """All of it."""
        await self._thread.run(lambda: self._store.delete(job_id, owner))

    async def claim(self, token: str, lease_s: float, without: Sequence[str] = ()) -> Claim | None:
        """The next job."""
        return await self._thread.run(lambda: self._store.claim(token, lease_s, without))

    async def beat(self, job_id: str, token: str, lease_s: float, progress: Progress) -> bool:
        """Whether the job is to end."""
        return await self._thread.run(lambda: self._store.beat(job_id, token, lease_s, progress))

    async def checkpoint(
        self, job_id: str, token: str, lease_s: float, key: str, value: bytes, progress: Progress
    ) -> None:
        """On disk when it returns."""
        await self._thread.run(lambda: self._store.checkpoint(job_id, token, lease_s, key, value, progress))

    async def finish(self, job_id: str, token: str, value: bytes) -> Job:
        """With a result."""
        return await self._thread.run(lambda: self._store.finish(job_id, token, value))

    async def fail(self, job_id: str, token: str, failure: Failure, retry_after_s: float | None) -> Job:
        """Queued again, or failed."""
        return await self._thread.run(lambda: self._store.fail(job_id, token, failure, retry_after_s))

    async def release(self, job_id: str, token: str) -> Job:
        """Queued again."""
        return await self._thread.run(lambda: self._store.release(job_id, token))

    async def stats(self) -> StoreStats:
        """How full the store is."""
        return await self._thread.run(self._store.stats)

    async def check_health(self) -> None:
        """Called by Ray Serve every ten seconds, which is also when expired jobs are swept and metrics are set.

        Raises:
            Unavailable: the folder or the database is broken; Ray Serve then replaces the replica.
        """
        await self._thread.probe(self._store.check)
        await self._thread.probe(self._store.recover)
        while await self._thread.probe(self._store.sweep):
            pass
        self._metrics.holds(
            await self._thread.probe(self._store.states), await self._thread.probe(self._store.queue_age_s)
        )

    async def close(self) -> None:
        """Lets accepted calls finish and frees the folder."""
        await asyncio.to_thread(self._thread.close)
        self._store.close()
