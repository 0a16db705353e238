"""Conversations on disk, and the deployment that holds them.

A message is answered under a lease on its session, which ends with `append`, `release` or its time. The lease is what
lets a second message be refused at once; it lives in memory and may be lost. What keeps a history whole is its version:
an append names the version that it was asked with, and of two that name the same one the second is refused.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from deployments import session_sql as sql
from deployments.folder_lock import wait_for_predecessor
from deployments.session_types import Conversation, Exchange, NewSession, Session, StoreStats
from deployments.sqlite_store import Database, used_bytes
from deployments.store_replica import StoreThread
from serve.config.models import SessionStoreModel
from serve.errors import Conflict, NotFound, OutOfCapacity

# Sessions deleted in one transaction of a sweep.
_SWEEP: Final = 100
_ID_BYTES: Final = 24


class SessionStore:
    """All methods block and may be called from any thread. A session is seen by its owner only, until it expires.

    Args:
        root: the store's folder; made when absent.
        max_sessions: sessions of all owners together.
        max_bytes: of the database; see `Database`.
        clock: Unix time in seconds.

    Raises:
        Conflict, Unavailable: see `Database`; so do all methods.
    """

    def __init__(
        self, root: Path, *, max_sessions: int, max_bytes: int, clock: Callable[[], float] = time.time
    ) -> None:
        self._max_sessions = max_sessions
        self._clock = clock
        self._database = Database(root, sql.SCHEMA, sql.FORMAT, max_bytes=max_bytes, store="session store")
        self._leases: dict[str, tuple[str, float]] = {}

    def create(self, new: NewSession) -> Session:
        """A new, empty session.

        Raises:
            OutOfCapacity: no room for it.
        """
        self._expire_when_full()
        now, session_id = self._clock(), f"sess_{secrets.token_urlsafe(_ID_BYTES)}"
        with self._database.changing() as connection:
            if sql.count(connection) >= self._max_sessions:
                raise OutOfCapacity(f"The session store holds its {self._max_sessions} sessions.")
            sql.insert_session(connection, session_id, new, now)
            created = sql.session(connection, session_id, new.owner, now)
        assert created is not None
        return created

    def get(self, session_id: str, owner: str, *, media: bool = False) -> Conversation:
        """A session and its exchanges.

        Raises:
            NotFound: `session_not_found`; so do the methods below.
        """
        with self._database.reading() as connection:
            session = _found(sql.session(connection, session_id, owner, self._clock()))
            blobs = sql.media(connection, session_id) if media else {}
            return Conversation(session, sql.exchanges(connection, session_id), blobs)

    def begin(self, session_id: str, owner: str, turn_id: str, lease_s: float) -> Conversation:
        """What the next message is asked with, media included, and a lease on the session for `lease_s` seconds.

        The session does not expire before its lease. The same `turn_id` may begin again.

        Raises:
            Conflict: `session_busy`; another message holds the lease.
        """
        now = self._clock()
        with self._database.changing() as connection:
            session = _found(sql.session(connection, session_id, owner, now))
            holder, until = self._leases.get(session_id, (turn_id, now))
            if holder != turn_id and until > now:
                raise _busy()
            if session.expires_at < now + lease_s:
                sql.extend(connection, session_id, now + lease_s)
            found = Conversation(session, sql.exchanges(connection, session_id), sql.media(connection, session_id))
        self._leases = {key: lease for key, lease in self._leases.items() if lease[1] > now}
        self._leases[session_id] = turn_id, now + lease_s
        return found

    def append(
        self, session_id: str, owner: str, version: int, exchange: Exchange, media: Mapping[str, bytes], drop: int
    ) -> Session:
        """Adds an exchange and deletes the `drop` oldest ones; on disk when this returns. Ends the lease.

        Sending the same exchange again changes nothing.

        Args:
            version: of the session that `begin` gave.
            media: bytes of the exchange's media by SHA-256.

        Raises:
            Conflict: `session_busy`; another exchange was added since. Nothing was changed.
            OutOfCapacity: no room for it. Nothing was changed.
        """
        now = self._clock()
        try:
            self._append(session_id, owner, version, exchange, media, drop, now)
        except OutOfCapacity:
            if not self.expire():
                raise
            self._append(session_id, owner, version, exchange, media, drop, now)
        finally:
            self.release(session_id, exchange.turn_id)
        with self._database.reading() as connection:
            return _found(sql.session(connection, session_id, owner, now))

    def release(self, session_id: str, turn_id: str) -> None:
        """Ends a lease; does nothing when `turn_id` does not hold it."""
        if self._leases.get(session_id, ("", 0.0))[0] == turn_id:
            self._leases.pop(session_id, None)

    def delete(self, session_id: str, owner: str) -> None:
        """Deletes a session with its exchanges and media."""
        with self._database.changing() as connection:
            _found(sql.session(connection, session_id, owner, self._clock()))
            sql.delete_sessions(connection, [session_id])

    def list_sessions(self, owner: str, limit: int) -> list[Session]:
        """The newest sessions of an owner, newest first."""
        with self._database.reading() as connection:
            return sql.sessions_of(connection, owner, self._clock(), limit)

    def expire(self) -> int:
        """Deletes some of the sessions past their time; the number deleted. Call again while it is above 0."""
        with self._database.reading() as connection:
            ids = sql.expired(connection, self._clock(), _SWEEP)
        if ids:
            with self._database.changing() as connection:
                sql.delete_sessions(connection, ids)
        return len(ids)

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

    def _append(
        self,
        session_id: str,
        owner: str,
        version: int,
        exchange: Exchange,
        media: Mapping[str, bytes],
        drop: int,
        now: float,
    ) -> None:
        with self._database.changing() as connection:
            session = _found(sql.session(connection, session_id, owner, now))
            if session.version == version:
                sql.append(connection, session, exchange, media, drop, now)
            elif sql.last_turn_id(connection, session_id) != exchange.turn_id:
                raise _busy()

    def _expire_when_full(self) -> None:
        while self.stats().entries >= self._max_sessions and self.expire():
            pass


class SessionStoreReplica:
    """The deployment: `SessionStore` behind async methods of the same names. Run exactly one.

    Raises:
        Overloaded: too many calls are waiting; nothing ran.
    """

    def __init__(self, config: SessionStoreModel, clock: Callable[[], float] = time.time) -> None:
        wait_for_predecessor(Path(config.path))
        self._store = SessionStore(
            Path(config.path), max_sessions=config.max_sessions, max_bytes=config.max_bytes, clock=clock
        )
        self._thread = StoreThread("session store", config.batching.max_queue)

    async def create(self, new: NewSession) -> Session:
        """See `SessionStore.create`; likewise below."""
        return await self._thread.run(lambda: self._store.create(new))

    async def get(self, session_id: str, owner: str) -> Conversation:
        """The exchanges without the bytes of their media."""
        return await self._thread.run(lambda: self._store.get(session_id, owner))

    async def begin(self, session_id: str, owner: str, turn_id: str, lease_s: float) -> Conversation:
        """Everything that the next message is asked with."""
        return await self._thread.run(lambda: self._store.begin(session_id, owner, turn_id, lease_s))

    async def append(
        self, session_id: str, owner: str, version: int, exchange: Exchange, media: Mapping[str, bytes], drop: int
    ) -> Session:
        """The session with the new exchange, on disk."""
        return await self._thread.run(lambda: self._store.append(session_id, owner, version, exchange, media, drop))

    async def release(self, session_id: str, turn_id: str) -> None:
        """Nothing will be appended under this turn."""
        await self._thread.run(lambda: self._store.release(session_id, turn_id))

    async def delete(self, session_id: str, owner: str) -> None:
        """All of the session."""
        await self._thread.run(lambda: self._store.delete(session_id, owner))

    async def list_sessions(self, owner: str, limit: int) -> list[Session]:
        """Newest first."""
        return await self._thread.run(lambda: self._store.list_sessions(owner, limit))

    async def expire(self) -> int:
        """One step of a sweep."""
        return await self._thread.run(self._store.expire)

    async def stats(self) -> StoreStats:
        """How full the store is."""
        return await self._thread.run(self._store.stats)

    async def check_health(self) -> None:
        """Called by Ray Serve every ten seconds, which is also when expired sessions are swept.

        Raises:
            Unavailable: the folder or the database is broken; Ray Serve then replaces the replica.
        """
        await self._thread.probe(self._store.check)
        while await self._thread.probe(self._store.expire):
            pass

    async def close(self) -> None:
        """Lets accepted calls finish and frees the folder."""
        await asyncio.to_thread(self._thread.close)
        self._store.close()


def _found(session: Session | None) -> Session:
    if session is None:
        raise NotFound("There is no such session, or it has expired.", code="session_not_found", param="id")
    return session


def _busy() -> Conflict:
    return Conflict(
        "Another message of this session is being answered; send this one when it has been.",
        code="session_busy",
        param="id",
        retry_after_s=1.0,
    )
