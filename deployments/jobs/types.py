"""What travels to and from the job store: plain dataclasses that pickle fast. Times are Unix seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

State = Literal["queued", "running", "succeeded", "failed", "cancelled", "expired"]
STATES: Final[tuple[State, ...]] = ("queued", "running", "succeeded", "failed", "cancelled", "expired")
ENDED: Final[frozenset[State]] = frozenset({"succeeded", "failed", "cancelled", "expired"})


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is.

    Attributes:
        stage: what is being done now, in the operation's own words.
        done: chunks finished.
        total: chunks in all; 0 while that is not known.
    """

    stage: str = ""
    done: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class Failure:
    """An error of the tree in serve/errors.py, as it is stored.

    Attributes:
        kind: name of its class.
    """

    kind: str
    code: str
    message: str
    param: str | None = None


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to store.

    Attributes:
        id: unguessable; a job that is submitted again is known by it.
        owner: name of the client; nobody else sees the job.
        operation: what to run.
        key: the client's idempotency key.
        digest: of what the client sent, so that a key that comes with another request is noticed.
        fields: the checked request without its media, as JSON.
        media: files of the request.
        ttl_s: seconds that the result is kept.
        makes: what it makes, as `scene room`, of whatever client; None when no other job could be in its way.
        insists: it is taken also while another job that has not ended makes the same.
    """

    id: str
    owner: str
    operation: str
    key: str | None
    digest: bytes
    fields: bytes
    media: tuple[bytes, ...]
    ttl_s: float
    makes: str | None = None
    insists: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it is stored.

    Attributes:
        version: grows with every change that its client can see.
        attempts: times that a worker began or resumed it.
        cancelling: its client wants it to end.
        expires_at: when its result goes; None until it has ended.
        failure: why it failed, or why it is queued again.
    """

    id: str
    owner: str
    operation: str
    state: State
    version: int
    progress: Progress
    attempts: int
    cancelling: bool
    created_at: float
    started_at: float | None
    ended_at: float | None
    expires_at: float | None
    failure: Failure | None


@dataclass(frozen=True, slots=True)
class Claim:
    """A job in the hands of one worker.

    Attributes:
        token: proves it.
        fields: see `NewJob`, as is `media`.
        chunks: what earlier attempts finished: JSON by key.
    """

    job: Job
    token: str
    fields: bytes
    media: tuple[bytes, ...]
    chunks: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class StoreStats:
    """How full the store is.

    Attributes:
        entries: jobs, ended ones included.
        bytes: of the database, without the space that deleted rows left for new ones.
    """

    entries: int
    bytes: int
