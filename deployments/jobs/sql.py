"""The tables of the job store: jobs, and apart from them their requests, media, finished chunks and results.

Every function runs within a transaction of its caller. What is large stands in tables of its own, so that lists of jobs
do not touch its pages; a job that has ended keeps only its result.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, Final

from deployments.jobs.rules import Verdict
from deployments.jobs.types import Claim, Failure, Job, NewJob, Progress, State

FORMAT: Final = 2
_BY_MAKES: Final = "CREATE INDEX jobs_by_makes ON jobs (makes) WHERE makes IS NOT NULL;"
SCHEMA: Final = f"""
PRAGMA user_version = {FORMAT};
CREATE TABLE jobs (
    id TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    operation TEXT NOT NULL,
    idempotency_key TEXT,
    digest BLOB NOT NULL,
    state TEXT NOT NULL,
    version INTEGER NOT NULL,
    stage TEXT NOT NULL,
    done INTEGER NOT NULL,
    total INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    fruitless INTEGER NOT NULL,  -- attempts since the last finished chunk
    cancelling INTEGER NOT NULL,
    token TEXT,  -- of the worker that has it, or had it last
    lease_until REAL NOT NULL,
    ready_at REAL NOT NULL,
    created_at REAL NOT NULL,
    started_at REAL,
    ended_at REAL,
    expires_at REAL,
    ttl_s REAL NOT NULL,
    failure TEXT,  -- as JSON
    makes TEXT
) WITHOUT ROWID;
CREATE UNIQUE INDEX jobs_by_key ON jobs (owner, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX jobs_by_owner ON jobs (owner, created_at, id);
CREATE INDEX jobs_by_state ON jobs (state, owner);
CREATE INDEX jobs_by_expiry ON jobs (expires_at) WHERE expires_at IS NOT NULL;
{_BY_MAKES}
CREATE TABLE requests (job_id TEXT PRIMARY KEY REFERENCES jobs ON DELETE CASCADE, fields BLOB NOT NULL);
CREATE TABLE media (
    job_id TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE,
    number INTEGER NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (job_id, number)
);
CREATE TABLE chunks (
    job_id TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE,
    key TEXT NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (job_id, key)
);
CREATE TABLE results (job_id TEXT PRIMARY KEY REFERENCES jobs ON DELETE CASCADE, value BLOB NOT NULL);
"""
UPGRADES: Final = {1: f"ALTER TABLE jobs ADD COLUMN makes TEXT; {_BY_MAKES}"}
_COLUMNS: Final = (
    "id, owner, operation, state, version, stage, done, total, attempts, cancelling, created_at, started_at, ended_at, "
    "expires_at, failure"
)
_ACTIVE: Final = "state IN ('queued', 'running')"
# Of those that are ready and may be begun, the oldest of the client with the fewest running: a full queue of one delays
# no other.
_NEXT: Final = f"""
SELECT {_COLUMNS} FROM jobs
WHERE state = 'queued' AND ready_at <= ? AND operation NOT IN (SELECT value FROM json_each(?))
ORDER BY (SELECT count(*) FROM jobs AS others WHERE others.state = 'running' AND others.owner = jobs.owner),
         created_at, id
LIMIT 1
"""
_PAGE: Final = f"""
SELECT {_COLUMNS} FROM jobs
WHERE owner = ? AND (? IS NULL OR (created_at, id) < (SELECT created_at, id FROM jobs WHERE id = ?))
ORDER BY created_at DESC, id DESC LIMIT ?
"""


def insert(connection: sqlite3.Connection, new: NewJob, now: float) -> None:
    """Adds a queued job, whose id must be new."""
    connection.execute(
        "INSERT INTO jobs (id, owner, operation, idempotency_key, digest, state, version, stage, done, total, "
        "attempts, fruitless, cancelling, lease_until, ready_at, created_at, ttl_s, makes) "
        "VALUES (?, ?, ?, ?, ?, 'queued', 1, '', 0, 0, 0, 0, 0, 0, ?, ?, ?, ?)",
        (new.id, new.owner, new.operation, new.key, new.digest, now, now, new.ttl_s, new.makes),
    )
    connection.execute("INSERT INTO requests VALUES (?, ?)", (new.id, new.fields))
    connection.executemany(
        "INSERT INTO media VALUES (?, ?, ?)", ((new.id, number, data) for number, data in enumerate(new.media))
    )


def job(connection: sqlite3.Connection, job_id: str, now: float, owner: str | None = None) -> Job | None:
    """One job; None when there is none, or none of `owner`."""
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM jobs WHERE id = ? AND owner = coalesce(?, owner)", (job_id, owner)
    ).fetchone()
    return None if row is None else _job(row, now)


def keyed(connection: sqlite3.Connection, owner: str, key: str, now: float) -> tuple[Job, bytes] | None:
    """The job that `owner` submitted under an idempotency key, and its request's digest."""
    row = connection.execute(
        f"SELECT {_COLUMNS}, digest FROM jobs WHERE owner = ? AND idempotency_key = ?", (owner, key)
    ).fetchone()
    return None if row is None else (_job(row[:-1], now), row[-1])


def page(connection: sqlite3.Connection, owner: str, after: str | None, limit: int, now: float) -> list[Job]:
    """Jobs of an owner, newest first, those after the job `after`."""
    return [_job(row, now) for row in connection.execute(_PAGE, (owner, after, after, limit))]


def result(connection: sqlite3.Connection, job_id: str) -> bytes | None:
    """A result as JSON."""
    row = connection.execute("SELECT value FROM results WHERE job_id = ?", (job_id,)).fetchone()
    return None if row is None else bytes(row[0])


def count(connection: sqlite3.Connection) -> int:
    """Jobs stored."""
    (found,) = connection.execute("SELECT count(*) FROM jobs").fetchone()
    return int(found)


def active(connection: sqlite3.Connection, owner: str) -> int:
    """Jobs of an owner that have not ended."""
    (found,) = connection.execute(f"SELECT count(*) FROM jobs WHERE {_ACTIVE} AND owner = ?", (owner,)).fetchone()
    return int(found)


def in_the_making(connection: sqlite3.Connection, makes: str) -> bool:
    """Whether a job that has not ended, and is not about to be, makes this."""
    row = connection.execute(
        f"SELECT 1 FROM jobs WHERE makes = ? AND {_ACTIVE} AND NOT cancelling LIMIT 1", (makes,)
    ).fetchone()
    return row is not None


def by_state(connection: sqlite3.Connection) -> dict[str, int]:
    """Jobs in each state that some job is in."""
    return dict(connection.execute("SELECT state, count(*) FROM jobs GROUP BY state"))


def oldest_ready(connection: sqlite3.Connection, now: float) -> float | None:
    """Since when the job that waits longest could have been begun."""
    (found,) = connection.execute(
        "SELECT min(ready_at) FROM jobs WHERE state = 'queued' AND ready_at <= ?", (now,)
    ).fetchone()
    return None if found is None else float(found)


def lost(connection: sqlite3.Connection, now: float) -> list[tuple[str, bool, int]]:
    """Running jobs whose lease has passed: id, cancelling, fruitless attempts."""
    rows = connection.execute(
        "SELECT id, cancelling, fruitless FROM jobs WHERE state = 'running' AND lease_until <= ?", (now,)
    )
    return [(job_id, bool(cancelling), fruitless) for job_id, cancelling, fruitless in rows]


def held(connection: sqlite3.Connection, job_id: str, token: str) -> tuple[State, int] | None:
    """State and fruitless attempts of a job, if `token` was the last to have it."""
    row = connection.execute("SELECT state, fruitless FROM jobs WHERE id = ? AND token = ?", (job_id, token)).fetchone()
    return None if row is None else (row[0], row[1])


def take(
    connection: sqlite3.Connection, token: str, lease_until: float, now: float, without: Sequence[str]
) -> str | None:
    """Gives the next job of no operation in `without` to the worker `token`, which may ask again; its id."""
    row = connection.execute("SELECT id FROM jobs WHERE state = 'running' AND token = ?", (token,)).fetchone()
    if row is not None:
        return str(row[0])
    row = connection.execute(_NEXT, (now, json.dumps(list(without)))).fetchone()
    if row is None:
        return None
    connection.execute(
        "UPDATE jobs SET state = 'running', version = version + 1, token = ?, lease_until = ?, failure = NULL, "
        "attempts = attempts + 1, fruitless = fruitless + 1, started_at = coalesce(started_at, ?) WHERE id = ?",
        (token, lease_until, now, row[0]),
    )
    return str(row[0])


def claim(connection: sqlite3.Connection, job_id: str, token: str, now: float) -> Claim:
    """All that a worker needs of a job."""
    found = job(connection, job_id, now)
    assert found is not None
    (fields,) = connection.execute("SELECT fields FROM requests WHERE job_id = ?", (job_id,)).fetchone()
    media = connection.execute("SELECT data FROM media WHERE job_id = ? ORDER BY number", (job_id,))
    chunks = connection.execute("SELECT key, value FROM chunks WHERE job_id = ?", (job_id,))
    return Claim(found, token, fields, tuple(data for (data,) in media), dict(chunks))


def renew(connection: sqlite3.Connection, job_id: str, lease_until: float, progress: Progress) -> None:
    """A sign of life of its worker."""
    connection.execute(
        "UPDATE jobs SET state = 'running', lease_until = ?, "
        "version = version + (state != 'running' OR (stage, done, total) != (?, ?, ?)), "
        "stage = ?, done = ?, total = ? WHERE id = ?",
        (lease_until, *_columns(progress), *_columns(progress), job_id),
    )


def add_chunk(connection: sqlite3.Connection, job_id: str, key: str, value: bytes) -> None:
    """A chunk is finished: attempts from here on are counted anew."""
    connection.execute("INSERT OR REPLACE INTO chunks VALUES (?, ?, ?)", (job_id, key, value))
    connection.execute("UPDATE jobs SET fruitless = 0 WHERE id = ?", (job_id,))


def forgive(connection: sqlite3.Connection, job_id: str) -> None:
    """The attempt that is under way does not count as a fruitless one."""
    connection.execute("UPDATE jobs SET fruitless = max(0, fruitless - 1) WHERE id = ?", (job_id,))


def judge(connection: sqlite3.Connection, job_id: str, verdict: Verdict, now: float, *, keep_token: bool) -> None:
    """Puts a verdict into effect.

    Args:
        keep_token: the worker may still come back with a sign of life, as long as no other has begun the job.
    """
    if verdict.state != "queued":
        end(connection, job_id, verdict.state, now, failure=verdict.failure)
        return
    connection.execute(
        "UPDATE jobs SET state = 'queued', version = version + 1, ready_at = ?, failure = ?, "
        "token = CASE WHEN ? THEN token END WHERE id = ?",
        (verdict.ready_at, _text(verdict.failure), keep_token, job_id),
    )


def want_end(connection: sqlite3.Connection, job_id: str) -> None:
    """Its client wants a running job to end."""
    connection.execute(
        "UPDATE jobs SET cancelling = 1, version = version + 1 WHERE id = ? AND NOT cancelling", (job_id,)
    )


def end(
    connection: sqlite3.Connection,
    job_id: str,
    state: State,
    now: float,
    *,
    failure: Failure | None = None,
    value: bytes | None = None,
) -> None:
    """The end of a job. Only its result stays."""
    for table in ("requests", "media", "chunks"):
        connection.execute(f"DELETE FROM {table} WHERE job_id = ?", (job_id,))
    if value is not None:
        connection.execute("INSERT INTO results VALUES (?, ?)", (job_id, value))
    connection.execute(
        "UPDATE jobs SET state = ?, version = version + 1, ended_at = ?, expires_at = ? + ttl_s, failure = ?, "
        "done = CASE WHEN ? THEN total ELSE done END WHERE id = ?",
        (state, now, now, _text(failure), state == "succeeded", job_id),
    )


def expired(connection: sqlite3.Connection, now: float, limit: int) -> list[str]:
    """Ended jobs whose result is past its time and still there, the longest expired first."""
    rows = connection.execute(
        "SELECT id FROM jobs WHERE expires_at <= ? AND state != 'expired' ORDER BY expires_at LIMIT ?", (now, limit)
    )
    return [job_id for (job_id,) in rows]


def forget(connection: sqlite3.Connection, ids: Iterable[str]) -> None:
    """Deletes the results of jobs; that there were such jobs stays known."""
    for job_id in ids:
        connection.execute("DELETE FROM results WHERE job_id = ?", (job_id,))
        connection.execute("UPDATE jobs SET state = 'expired', failure = NULL WHERE id = ?", (job_id,))


def gone(connection: sqlite3.Connection, before: float, limit: int) -> list[str]:
    """Expired jobs whose result went before that time."""
    rows = connection.execute(
        "SELECT id FROM jobs WHERE expires_at <= ? AND state = 'expired' ORDER BY expires_at LIMIT ?", (before, limit)
    )
    return [job_id for (job_id,) in rows]


def delete(connection: sqlite3.Connection, ids: Iterable[str]) -> None:
    """Deletes jobs with all they hold."""
    connection.executemany("DELETE FROM jobs WHERE id = ?", ((job_id,) for job_id in ids))


def _job(row: tuple[Any, ...], now: float) -> Job:
    job_id, owner, operation, state, version, stage, done, total, attempts, cancelling, *times, failure = row
    created_at, started_at, ended_at, expires_at = times
    is_past = expires_at is not None and expires_at <= now  # although the sweep has not come by yet
    return Job(
        id=job_id,
        owner=owner,
        operation=operation,
        state="expired" if is_past else state,
        version=version,
        progress=Progress(stage, done, total),
        attempts=attempts,
        cancelling=bool(cancelling),
        created_at=created_at,
        started_at=started_at,
        ended_at=ended_at,
        expires_at=expires_at,
        failure=None if failure is None or is_past else Failure(**json.loads(failure)),
    )


def _columns(progress: Progress) -> tuple[str, int, int]:
    return progress.stage, progress.done, progress.total


def _text(failure: Failure | None) -> str | None:
    # Escapes keep what is not UTF-8, such as a lone surrogate in a message that quotes a client.
    return None if failure is None else json.dumps(asdict(failure), separators=(",", ":"))
