"""Jobs on disk: who may run one, how far it is, and when it is forgotten.

A worker holds a job under a lease that its signs of life renew. When they stop, the job is queued again with the chunks
that were finished. A token, new with each claim, keeps a worker out that comes back after another has begun: it alone
decides, the lease only says when others may try. Methods may be sent twice.
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from deployments.jobs import sql
from deployments.jobs.rules import Rules, Verdict, after_failure, after_lost_lease
from deployments.jobs.types import ENDED, Claim, Failure, Job, NewJob, Progress, State, StoreStats
from deployments.sqlite_store import Database, used_bytes
from serve.errors import Conflict, NotFound, OutOfCapacity, Overloaded

# Seconds for which an expired job is still known, so that its client learns what became of it.
REMEMBERED_S: Final = 86_400.0
# Share of the store that requests may fill; the rest is for the chunks and results of the jobs that were accepted.
_FOR_REQUESTS: Final = 0.8
# Jobs changed in one transaction of a sweep.
_SWEEP: Final = 100


class JobStore:
    """All methods block and may be called from any thread. A job is seen by its owner only.

    Args:
        root: the store's folder; made when absent.
        max_jobs: jobs of all owners together, ended ones included.
        max_active: jobs of one owner that have not ended.
        max_bytes: of the database; see `Database`.
        on_end: told of each job that ends, once that is on disk.
        clock: Unix time in seconds.
        jitter: uniform in [0, 1).

    Raises:
        Conflict, Unavailable: see `Database`; so do all methods.
    """

    def __init__(
        self,
        root: Path,
        *,
        max_jobs: int,
        max_active: int,
        max_bytes: int,
        rules: Rules,
        on_end: Callable[[Job], None] = lambda job: None,
        clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._max_jobs, self._max_active, self._max_bytes = max_jobs, max_active, max_bytes
        self._rules = rules
        self._on_end = on_end
        self._clock = clock
        self._jitter = jitter
        self._database = Database(
            root, sql.SCHEMA, sql.FORMAT, max_bytes=max_bytes, store="job store", upgrades=sql.UPGRADES
        )

    # What clients do.

    def find(self, owner: str, key: str, digest: bytes) -> Job | None:
        """The job that was submitted under an idempotency key.

        Raises:
            Conflict: `idempotency_conflict`; it was another request.
        """
        with self._database.reading() as connection:
            return self._find(connection, owner, key, digest)

    def submit(self, new: NewJob) -> Job:
        """A queued job, or the one that was submitted under this id or key before; on disk when this returns.

        Raises:
            Conflict: `idempotency_conflict`; `in_the_making`: another job that has not ended makes the same.
            Overloaded: `too_many_jobs`; its owner has as many that have not ended as are allowed.
            OutOfCapacity: no room for it.
        """
        self._make_room()
        now = self._clock()
        with self._database.changing() as connection:
            found = sql.job(connection, new.id, now)
            if found is None and new.key is not None:
                found = self._find(connection, new.owner, new.key, new.digest)
            if found is not None:
                return found
            if new.makes is not None and not new.insists and sql.in_the_making(connection, new.makes):
                raise Conflict(f"Another job that has not ended makes {new.makes}.", code="in_the_making", param="name")
            self._check_room(connection, new)
            sql.insert(connection, new, now)
            return _found(sql.job(connection, new.id, now))

    def get(self, job_id: str, owner: str) -> Job:
        """One job.

        Raises:
            NotFound: `job_not_found`; so do the methods below.
        """
        with self._database.reading() as connection:
            return _found(sql.job(connection, job_id, self._clock(), owner))

    def result(self, job_id: str, owner: str) -> tuple[Job, bytes | None]:
        """One job and its result, as JSON; None when it has none."""
        with self._database.reading() as connection:
            job = _found(sql.job(connection, job_id, self._clock(), owner))
            return job, sql.result(connection, job_id) if job.state == "succeeded" else None

    def list_jobs(self, owner: str, after: str | None, limit: int) -> list[Job]:
        """The newest jobs of an owner, newest first, from the one after `after` on, which must still be known: from a
        place that is gone nobody can go on, and nothing would look like the end."""
        now = self._clock()
        with self._database.reading() as connection:
            if after is not None:
                _found(sql.job(connection, after, now, owner), "after")
            return sql.page(connection, owner, after, limit, now)

    def cancel(self, job_id: str, owner: str) -> Job:
        """Ends a queued job; of a running one its worker learns it with its next sign of life."""
        now = self._clock()
        with self._database.changing() as connection:
            found = _found(sql.job(connection, job_id, now, owner))
            if found.state == "queued":
                sql.end(connection, job_id, "cancelled", now)
            elif found.state == "running":
                sql.want_end(connection, job_id)
            job = _found(sql.job(connection, job_id, now))
        self._tell(found.state, job)
        return job

    def delete(self, job_id: str, owner: str) -> None:
        """Deletes a job, whatever its state; a worker that has it loses it."""
        with self._database.changing() as connection:
            _found(sql.job(connection, job_id, self._clock(), owner))
            sql.delete(connection, [job_id])

    # What workers do.

    def claim(self, token: str, lease_s: float, without: Sequence[str] = ()) -> Claim | None:
        """The next job, to be run by who has `token`; None when none is ready.

        Args:
            without: operations for which the worker has no room.
        """
        self.recover()
        now = self._clock()
        with self._database.changing() as connection:
            job_id = sql.take(connection, token, now + lease_s, now, without)
            return None if job_id is None else sql.claim(connection, job_id, token, now)

    def beat(self, job_id: str, token: str, lease_s: float, progress: Progress) -> bool:
        """A sign of life; whether the job's client wants it to end.

        Raises:
            Conflict: `lease_lost`; the job is another worker's, or has ended, or was deleted. So do the methods below.
        """
        with self._database.changing() as connection:
            _held(connection, job_id, token)
            sql.renew(connection, job_id, self._clock() + lease_s, progress)
            return _found(sql.job(connection, job_id, self._clock())).cancelling

    def checkpoint(self, job_id: str, token: str, lease_s: float, key: str, value: bytes, progress: Progress) -> None:
        """Like `beat`, with a finished chunk; on disk when this returns.

        Raises:
            OutOfCapacity: no room for it.
        """
        with self._database.changing() as connection:
            _held(connection, job_id, token)
            sql.add_chunk(connection, job_id, key, value)
            sql.renew(connection, job_id, self._clock() + lease_s, progress)

    def finish(self, job_id: str, token: str, value: bytes) -> Job:
        """The job has succeeded; on disk when this returns.

        Raises:
            OutOfCapacity: no room for the result.
        """
        with self._database.changing() as connection:
            now = self._clock()
            before, _ = _held(connection, job_id, token, "succeeded")
            if before != "succeeded":
                sql.end(connection, job_id, "succeeded", now, value=value)
            job = _found(sql.job(connection, job_id, now))
        self._tell(before, job)
        return job

    def fail(self, job_id: str, token: str, failure: Failure, retry_after_s: float | None) -> Job:
        """An attempt has failed: the job is queued again or has failed.

        Args:
            retry_after_s: see `deployments.jobs.rules.after_failure`.
        """

        def judged(fruitless: int, now: float) -> Verdict:
            jitter = self._jitter()
            return after_failure(failure, fruitless, now, self._rules, retry_after_s=retry_after_s, jitter=jitter)

        return self._give_back(job_id, token, judged)

    def release(self, job_id: str, token: str) -> Job:
        """Its worker ends, not the job: another may begin it at once."""
        return self._give_back(job_id, token, lambda _, now: Verdict("queued", now, None), forgive=True)

    # What time does.

    def recover(self) -> int:
        """Takes jobs from workers that went silent; their number."""
        with self._database.reading() as connection:
            lost = sql.lost(connection, self._clock())
        if not lost:
            return 0
        ended = []
        with self._database.changing() as connection:
            now = self._clock()
            for job_id, cancelling, fruitless in lost:
                verdict = after_lost_lease(cancelling, fruitless, now, self._rules)
                sql.judge(connection, job_id, verdict, now, keep_token=True)
                ended.append(_found(sql.job(connection, job_id, now)))
        for job in ended:
            self._tell("running", job)
        return len(lost)

    def sweep(self) -> int:
        """Deletes some of the results past their time, and some of the jobs that expired long ago; the number of both.
        Call again while it is above 0."""
        with self._database.reading() as connection:
            now = self._clock()
            expired = sql.expired(connection, now, _SWEEP)
            gone = sql.gone(connection, now - REMEMBERED_S, _SWEEP)
        if expired or gone:
            with self._database.changing() as connection:
                sql.forget(connection, expired)
                sql.delete(connection, gone)
        return len(expired) + len(gone)

    def states(self) -> dict[str, int]:
        """Jobs in each state that some job is in."""
        with self._database.reading() as connection:
            return sql.by_state(connection)

    def queue_age_s(self) -> float:
        """Seconds that the job that waits longest has waited for a worker."""
        with self._database.reading() as connection:
            now = self._clock()
            since = sql.oldest_ready(connection, now)
            return 0.0 if since is None else now - since

    def stats(self) -> StoreStats:
        """How full the store is."""
        with self._database.reading() as connection:
            return StoreStats(sql.count(connection), used_bytes(connection))

    def check(self) -> None:
        """See `Database.check`."""
        self._database.check()

    def close(self) -> None:
        """Frees the folder."""
        self._database.close()

    def _find(self, connection: sqlite3.Connection, owner: str, key: str, digest: bytes) -> Job | None:
        found = sql.keyed(connection, owner, key, self._clock())
        if found is not None and found[1] != digest:
            raise Conflict(
                "This idempotency key was used with another request.",
                code="idempotency_conflict",
                param="idempotency_key",
            )
        return None if found is None else found[0]

    def _make_room(self) -> None:
        """In a full store, jobs whose results have expired are forgotten at once."""
        while self.stats().entries >= self._max_jobs and self.sweep():
            pass
        if self.stats().entries >= self._max_jobs:
            with self._database.changing() as connection:
                sql.delete(connection, sql.gone(connection, self._clock(), _SWEEP))

    def _check_room(self, connection: sqlite3.Connection, new: NewJob) -> None:
        if sql.active(connection, new.owner) >= self._max_active:
            raise Overloaded(
                f"You have {self._max_active} jobs that have not ended, the most that one client may have.",
                code="too_many_jobs",
                retry_after_s=10.0,
            )
        if sql.count(connection) >= self._max_jobs:
            raise OutOfCapacity(f"The job store holds its {self._max_jobs} jobs.")
        size = len(new.fields) + sum(map(len, new.media))
        if used_bytes(connection) + size > _FOR_REQUESTS * self._max_bytes:
            raise OutOfCapacity(f"The job store has no room for a request of {size:,} bytes now.")

    def _give_back(
        self, job_id: str, token: str, judged: Callable[[int, float], Verdict], *, forgive: bool = False
    ) -> Job:
        """The end of an attempt, by a verdict on its fruitless attempts and the time; a job that is to end, ends.

        Args:
            forgive: this attempt is none of the fruitless ones.
        """
        with self._database.changing() as connection:
            now = self._clock()
            _, fruitless = _held(connection, job_id, token)
            if forgive:
                sql.forgive(connection, job_id)
            cancelling = _found(sql.job(connection, job_id, now)).cancelling
            verdict = Verdict("cancelled", now, None) if cancelling else judged(fruitless, now)
            sql.judge(connection, job_id, verdict, now, keep_token=False)
            job = _found(sql.job(connection, job_id, now))
        self._tell("running", job)
        return job

    def _tell(self, before: State, job: Job) -> None:
        if job.state in ENDED and before not in ENDED:
            self._on_end(job)


def _found(job: Job | None, param: str = "id") -> Job:
    if job is None:
        raise NotFound("There is no such job, or it is gone.", code="job_not_found", param=param)
    return job


def _held(connection: sqlite3.Connection, job_id: str, token: str, *ends: State) -> tuple[State, int]:
    """State and fruitless attempts of a job that `token` has, or had last without anybody having begun it since.

    Args:
        ends: states in which it may have ended.
    """
    found = sql.held(connection, job_id, token)
    if found is None or found[0] in ENDED.difference(ends):
        raise Conflict("The job is no longer this worker's.", code="lease_lost", param="token")
    return found
