"""The tables of the session store: sessions, their exchanges, and media by digest.

Every function runs within a transaction of its caller. A medium is a row for as long as an exchange uses it. Blobs
stand in a table of their own, so that lists of messages do not touch their pages.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Final

from deployments.session_types import Bounds, Exchange, MediumRef, NewSession, Session

FORMAT: Final = 1
SCHEMA: Final = f"""
PRAGMA user_version = {FORMAT};
CREATE TABLE sessions (
    id TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    created_at REAL NOT NULL,
    expires_at REAL NOT NULL,
    version INTEGER NOT NULL,
    spec TEXT NOT NULL  -- what does not change, as JSON
) WITHOUT ROWID;
CREATE INDEX sessions_by_expiry ON sessions (expires_at);
CREATE INDEX sessions_by_owner ON sessions (owner, created_at, id);
CREATE TABLE exchanges (
    session_id TEXT NOT NULL REFERENCES sessions ON DELETE CASCADE,
    number INTEGER NOT NULL,
    turn_id TEXT NOT NULL,
    images INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    content TEXT NOT NULL,  -- the rest of the exchange, as JSON
    PRIMARY KEY (session_id, number)
) WITHOUT ROWID;
CREATE TABLE media (sha256 TEXT PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE media_uses (
    session_id TEXT NOT NULL,
    number INTEGER NOT NULL,
    sha256 TEXT NOT NULL REFERENCES media,
    PRIMARY KEY (session_id, number, sha256),
    FOREIGN KEY (session_id, number) REFERENCES exchanges ON DELETE CASCADE
) WITHOUT ROWID;
CREATE INDEX media_uses_by_digest ON media_uses (sha256);
-- The last use that goes takes the medium with it, however it goes.
CREATE TRIGGER media_end AFTER DELETE ON media_uses
WHEN NOT EXISTS (SELECT 1 FROM media_uses WHERE sha256 = OLD.sha256)
BEGIN DELETE FROM media WHERE sha256 = OLD.sha256; END;
"""
# With a query of sessions in the middle, which also says in what order.
_SESSIONS: Final = """
SELECT s.id, s.owner, s.created_at, s.expires_at, s.version, s.spec,
       count(e.number), coalesce(sum(e.images), 0), coalesce(sum(e.tokens), 0)
FROM ({}) AS s LEFT JOIN exchanges AS e ON e.session_id = s.id
GROUP BY s.id ORDER BY s.created_at DESC, s.id
"""
_ONE: Final = _SESSIONS.format("SELECT * FROM sessions WHERE id = ? AND owner = ? AND expires_at > ?")
_NEWEST: Final = _SESSIONS.format(
    "SELECT * FROM sessions WHERE owner = ? AND expires_at > ? ORDER BY created_at DESC, id LIMIT ?"
)
_Row = tuple[str, str, float, float, int, str, int, int, int]


def insert_session(connection: sqlite3.Connection, session_id: str, new: NewSession, now: float) -> None:
    """Adds a session, whose id must be new."""
    spec = {
        "model": new.model,
        "system": new.system,
        "ttl_s": new.ttl_s,
        "bounds": asdict(new.bounds),
        "metadata": dict(new.metadata),
    }
    connection.execute(
        "INSERT INTO sessions (id, owner, created_at, expires_at, version, spec) VALUES (?, ?, ?, ?, 0, ?)",
        (session_id, new.owner, now, now + new.ttl_s, _text(spec)),
    )


def session(connection: sqlite3.Connection, session_id: str, owner: str, now: float) -> Session | None:
    """One session; None when it does not exist for `owner` or has expired."""
    row = connection.execute(_ONE, (session_id, owner, now)).fetchone()
    return None if row is None else _session(row)


def sessions_of(connection: sqlite3.Connection, owner: str, now: float, limit: int) -> list[Session]:
    """The newest sessions of an owner, newest first."""
    return [_session(row) for row in connection.execute(_NEWEST, (owner, now, limit))]


def count(connection: sqlite3.Connection) -> int:
    """Sessions stored, expired ones that have not been swept included."""
    (found,) = connection.execute("SELECT count(*) FROM sessions").fetchone()
    return int(found)


def delete_sessions(connection: sqlite3.Connection, ids: Iterable[str]) -> int:
    """Deletes sessions with all they hold; the number of those that existed."""
    deleted = connection.executemany("DELETE FROM sessions WHERE id = ?", ((session_id,) for session_id in ids))
    return deleted.rowcount


def expired(connection: sqlite3.Connection, now: float, limit: int) -> list[str]:
    """Ids of sessions past their time, the longest expired first."""
    rows = connection.execute("SELECT id FROM sessions WHERE expires_at <= ? ORDER BY expires_at LIMIT ?", (now, limit))
    return [session_id for (session_id,) in rows]


def extend(connection: sqlite3.Connection, session_id: str, expires_at: float) -> None:
    """Lets a session live until then."""
    connection.execute("UPDATE sessions SET expires_at = ? WHERE id = ?", (expires_at, session_id))


def exchanges(connection: sqlite3.Connection, session_id: str) -> tuple[Exchange, ...]:
    """All of a session's, oldest first."""
    rows = connection.execute(
        "SELECT turn_id, tokens, content FROM exchanges WHERE session_id = ? ORDER BY number", (session_id,)
    )
    return tuple(_exchange(*row) for row in rows)


def media(connection: sqlite3.Connection, session_id: str) -> dict[str, bytes]:
    """The bytes of every medium of a session, by digest."""
    rows = connection.execute(
        "SELECT sha256, data FROM media WHERE sha256 IN (SELECT sha256 FROM media_uses WHERE session_id = ?)",
        (session_id,),
    )
    return dict(rows)


def last_turn_id(connection: sqlite3.Connection, session_id: str) -> str | None:
    """Of the newest exchange; None when there is none."""
    row = connection.execute(
        "SELECT turn_id FROM exchanges WHERE session_id = ? ORDER BY number DESC LIMIT 1", (session_id,)
    ).fetchone()
    return None if row is None else str(row[0])


def append(
    connection: sqlite3.Connection,
    before: Session,
    exchange: Exchange,
    blobs: Mapping[str, bytes],
    drop: int,
    now: float,
) -> None:
    """Adds an exchange, deletes the `drop` oldest ones, and gives the session a new version and its whole life again.

    Args:
        blobs: the media of `exchange` by digest; those that are stored already are not written again.
    """
    number = before.version
    connection.execute(
        "INSERT INTO exchanges (session_id, number, turn_id, images, tokens, content) VALUES (?, ?, ?, ?, ?, ?)",
        (before.id, number, exchange.turn_id, _images(exchange), exchange.tokens, _content(exchange)),
    )
    for digest in {part.sha256 for part in exchange.user if isinstance(part, MediumRef)}:
        connection.execute("INSERT OR IGNORE INTO media (sha256, data) VALUES (?, ?)", (digest, blobs[digest]))
        connection.execute("INSERT INTO media_uses VALUES (?, ?, ?)", (before.id, number, digest))
    # Numbers are versions and have no gaps, so the oldest are those below a bound.
    connection.execute(
        "DELETE FROM exchanges WHERE session_id = ? AND number < ?", (before.id, number - before.turns + drop)
    )
    connection.execute(
        "UPDATE sessions SET version = version + 1, expires_at = ? WHERE id = ?", (now + before.ttl_s, before.id)
    )


def _images(exchange: Exchange) -> int:
    return sum(isinstance(part, MediumRef) and part.kind == "image" for part in exchange.user)


def _content(exchange: Exchange) -> str:
    return _text(
        {
            "user": [part if isinstance(part, str) else asdict(part) for part in exchange.user],
            "answer": exchange.answer,
            "model": exchange.model,
            "prompt_tokens": exchange.prompt_tokens,
            "completion_tokens": exchange.completion_tokens,
        }
    )


def _exchange(turn_id: str, tokens: int, content: str) -> Exchange:
    fields = json.loads(content)
    user = tuple(part if isinstance(part, str) else MediumRef(**part) for part in fields.pop("user"))
    return Exchange(turn_id=turn_id, user=user, tokens=tokens, **fields)


def _session(row: _Row) -> Session:
    session_id, owner, created_at, expires_at, version, spec, turns, images, tokens = row
    fields = json.loads(spec)
    return Session(
        id=session_id,
        owner=owner,
        model=fields["model"],
        system=fields["system"],
        ttl_s=fields["ttl_s"],
        bounds=Bounds(**fields["bounds"]),
        metadata=fields["metadata"],
        version=version,
        created_at=created_at,
        expires_at=expires_at,
        turns=turns,
        images=images,
        tokens=tokens,
    )


def _text(value: Sequence[object] | Mapping[str, object]) -> str:
    # A lone surrogate, which a client may send as an escape, is not UTF-8: escapes keep it.
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"))
