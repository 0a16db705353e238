"""The tables of the scene store: scenes, their versions, artifacts, and the files that both stand on.

Every function runs within a transaction of its caller. `files` has one row for each file that something stands on, so
its sum is what the store takes up, and what is not in it may be deleted.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection
from dataclasses import astuple
from typing import Any, Final

from deployments.rendering.messages import SceneRef
from deployments.scenes.types import Artifact, Bounds, Label, NewScene, SceneFile, SceneInfo, StoreStats, Version

FORMAT: Final = 2
SCHEMA: Final = f"""
PRAGMA user_version = {FORMAT};
CREATE TABLE store (id TEXT NOT NULL);
INSERT INTO store VALUES (lower(hex(randomblob(16))));
CREATE TABLE files (digest TEXT PRIMARY KEY, nbytes INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE scenes (
    name TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    current INTEGER NOT NULL,
    next INTEGER NOT NULL,  -- number of the next version
    source TEXT NOT NULL,
    up TEXT NOT NULL,  -- as JSON
    attribution TEXT NOT NULL,
    upload BLOB NOT NULL,  -- digest of what was put in
    created REAL NOT NULL,
    updated REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE versions (
    scene TEXT NOT NULL REFERENCES scenes ON DELETE CASCADE,
    number INTEGER NOT NULL,
    digest TEXT NOT NULL REFERENCES files,
    motion_s REAL NOT NULL,
    edit TEXT NOT NULL,
    request BLOB,  -- digest of the edits that made it
    count INTEGER NOT NULL,
    sh_degree INTEGER NOT NULL,
    bounds TEXT NOT NULL,  -- as JSON
    created REAL NOT NULL,
    PRIMARY KEY (scene, number)
) WITHOUT ROWID;
CREATE INDEX versions_by_digest ON versions (digest);
CREATE TABLE artifacts (
    id TEXT PRIMARY KEY,
    scene TEXT NOT NULL,  -- name of the one that it was made from, which may be gone
    digest TEXT NOT NULL REFERENCES files,
    filename TEXT NOT NULL,
    media_type TEXT NOT NULL,
    expires REAL NOT NULL,
    export TEXT  -- digest of the scene's file and format that it is of
) WITHOUT ROWID;
CREATE INDEX artifacts_by_digest ON artifacts (digest);
CREATE INDEX artifacts_by_expiry ON artifacts (expires);
CREATE INDEX artifacts_by_export ON artifacts (export, filename);
"""
UPGRADES: Final = {
    # Artifacts did not say what they are of; they live for a day, and exports are made again when they are asked for.
    1: "DELETE FROM artifacts; ALTER TABLE artifacts ADD COLUMN scene TEXT NOT NULL DEFAULT '';",
}
_SCENE: Final = "name, kind, current, source, up, attribution, created, updated"
_VERSION: Final = "number, digest, nbytes, motion_s, edit, count, sh_degree, bounds, created"
_ARTIFACT: Final = "id, scene, filename, media_type, nbytes, expires"


def store_id(connection: sqlite3.Connection) -> str:
    """What tells this store from every other."""
    return str(connection.execute("SELECT id FROM store").fetchone()[0])


def scene(connection: sqlite3.Connection, name: str) -> SceneInfo | None:
    """One scene with its versions."""
    row = connection.execute(f"SELECT {_SCENE} FROM scenes WHERE name = ?", (name,)).fetchone()
    return None if row is None else _info(connection, row)


def scenes(connection: sqlite3.Connection, after: str | None, limit: int) -> tuple[SceneInfo, ...]:
    """Scenes by name, from the one after `after` on."""
    rows = connection.execute(
        f"SELECT {_SCENE} FROM scenes WHERE name > ? ORDER BY name LIMIT ?", (after or "", limit)
    ).fetchall()
    return tuple(_info(connection, row) for row in rows)


def upload(connection: sqlite3.Connection, name: str) -> bytes | None:
    """Digest of what a scene was made from."""
    row = connection.execute("SELECT upload FROM scenes WHERE name = ?", (name,)).fetchone()
    return None if row is None else bytes(row[0])


def request(connection: sqlite3.Connection, name: str, number: int) -> bytes | None:
    """Digest of the edits that made a version; None for one that was uploaded."""
    row = connection.execute("SELECT request FROM versions WHERE scene = ? AND number = ?", (name, number)).fetchone()
    return None if row is None or row[0] is None else bytes(row[0])


def insert(connection: sqlite3.Connection, new: NewScene, file: SceneFile, digest: bytes, now: float) -> None:
    """Adds a scene with one version, in the place of one of that name; its versions' numbers go on from there."""
    row = connection.execute("SELECT next FROM scenes WHERE name = ?", (new.name,)).fetchone()
    delete(connection, new.name)
    number = 1 if row is None else int(row[0])
    connection.execute(
        f"INSERT INTO scenes ({_SCENE}, next, upload) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            new.name,
            file.ref.kind,
            number,
            file.source,
            json.dumps(new.up),
            new.attribution,
            now,
            now,
            number + 1,
            digest,
        ),
    )
    _insert_version(connection, new.name, number, file, None, now)


def append(connection: sqlite3.Connection, name: str, file: SceneFile, digest: bytes, most: int, now: float) -> None:
    """Adds a version after the current one, in the place of those that were undone; the oldest beyond `most` go."""
    current, number = connection.execute("SELECT current, next FROM scenes WHERE name = ?", (name,)).fetchone()
    connection.execute("DELETE FROM versions WHERE scene = ? AND number > ?", (name, current))
    _insert_version(connection, name, number, file, digest, now)
    connection.execute("UPDATE scenes SET next = ? WHERE name = ?", (number + 1, name))
    show(connection, name, number, now)
    connection.execute(
        "DELETE FROM versions WHERE scene = ? AND number NOT IN "
        "(SELECT number FROM versions WHERE scene = ? ORDER BY number DESC LIMIT ?)",
        (name, name, most),
    )


def show(connection: sqlite3.Connection, name: str, number: int, now: float) -> None:
    """Makes a version the current one."""
    connection.execute("UPDATE scenes SET current = ?, updated = ? WHERE name = ?", (number, now, name))


def delete(connection: sqlite3.Connection, name: str) -> None:
    """Deletes a scene with its versions."""
    connection.execute("DELETE FROM scenes WHERE name = ?", (name,))


def add_artifact(connection: sqlite3.Connection, artifact: Artifact, digest: str, export: str | None) -> None:
    """Adds an artifact."""
    add_file(connection, digest, artifact.nbytes)
    connection.execute(
        "INSERT INTO artifacts (id, scene, digest, filename, media_type, expires, export) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (artifact.id, artifact.scene, digest, artifact.filename, artifact.media_type, artifact.expires, export),
    )


def artifact(connection: sqlite3.Connection, artifact_id: str, now: float) -> tuple[Artifact, str] | None:
    """An artifact that has not expired, and the digest of its file."""
    row = connection.execute(
        f"SELECT {_ARTIFACT}, digest FROM artifacts JOIN files USING (digest) WHERE id = ? AND expires > ?",
        (artifact_id, now),
    ).fetchone()
    return None if row is None else (Artifact(*row[:-1]), row[-1])


def exported(
    connection: sqlite3.Connection, export: str, label: Label | None, now: float
) -> tuple[Artifact, str] | None:
    """An artifact that is this export, under this label or, when None, under any; and the digest of its file."""
    scene, filename = (None, None) if label is None else (label.scene, label.filename)
    row = connection.execute(
        f"SELECT {_ARTIFACT}, digest FROM artifacts JOIN files USING (digest) WHERE export = ? AND expires > ? "
        "AND scene = coalesce(?, scene) AND filename = coalesce(?, filename) LIMIT 1",
        (export, now, scene, filename),
    ).fetchone()
    return None if row is None else (Artifact(*row[:-1]), row[-1])


def keep(connection: sqlite3.Connection, artifact_id: str, expires: float) -> None:
    """Lets an artifact live longer."""
    connection.execute("UPDATE artifacts SET expires = ? WHERE id = ?", (expires, artifact_id))


def expired(connection: sqlite3.Connection, now: float) -> bool:
    """Whether an artifact is past its time."""
    return connection.execute("SELECT 1 FROM artifacts WHERE expires <= ? LIMIT 1", (now,)).fetchone() is not None


def expire(connection: sqlite3.Connection, now: float) -> int:
    """Deletes the artifacts past their time; their number."""
    return connection.execute("DELETE FROM artifacts WHERE expires <= ?", (now,)).rowcount


def add_file(connection: sqlite3.Connection, digest: str, nbytes: int) -> None:
    """Counts a file that something is about to stand on."""
    connection.execute("INSERT OR IGNORE INTO files VALUES (?, ?)", (digest, nbytes))


def has_file(connection: sqlite3.Connection, digest: str) -> bool:
    """Whether something stands on the file."""
    return connection.execute("SELECT 1 FROM files WHERE digest = ?", (digest,)).fetchone() is not None


def digests(connection: sqlite3.Connection) -> set[str]:
    """Of all files that something stands on."""
    return {digest for (digest,) in connection.execute("SELECT digest FROM files")}


def drop_files(connection: sqlite3.Connection) -> list[str]:
    """Forgets the files that nothing stands on any more; their digests."""
    rows = connection.execute(
        "DELETE FROM files WHERE NOT EXISTS (SELECT 1 FROM versions WHERE versions.digest = files.digest) "
        "AND NOT EXISTS (SELECT 1 FROM artifacts WHERE artifacts.digest = files.digest) RETURNING digest"
    ).fetchall()
    return [digest for (digest,) in rows]


def unknown(connection: sqlite3.Connection, digests: Collection[str]) -> list[str]:
    """Those that nothing stands on."""
    return [digest for digest in digests if not has_file(connection, digest)]


def used_bytes(connection: sqlite3.Connection) -> int:
    """Bytes of all files."""
    return int(connection.execute("SELECT coalesce(sum(nbytes), 0) FROM files").fetchone()[0])


def stats(connection: sqlite3.Connection) -> StoreStats:
    """How full the store is."""
    scenes, versions, artifacts = (
        int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
        for table in ("scenes", "versions", "artifacts")
    )
    return StoreStats(scenes, versions, artifacts, used_bytes(connection))


def _insert_version(
    connection: sqlite3.Connection, name: str, number: int, file: SceneFile, request: bytes | None, now: float
) -> None:
    ref = file.ref
    add_file(connection, ref.digest, ref.nbytes)
    connection.execute(
        "INSERT INTO versions (scene, number, digest, motion_s, edit, request, count, sh_degree, bounds, created) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            name,
            number,
            ref.digest,
            ref.motion_s,
            file.edit,
            request,
            file.count,
            file.sh_degree,
            json.dumps(astuple(file.bounds)),
            now,
        ),
    )


def _info(connection: sqlite3.Connection, row: tuple[Any, ...]) -> SceneInfo:
    name, kind, current, source, up, attribution, created, updated = row
    rows = connection.execute(
        f"SELECT {_VERSION} FROM versions JOIN files USING (digest) WHERE scene = ? ORDER BY number", (name,)
    )
    versions = tuple(_version(kind, one) for one in rows)
    return SceneInfo(name, kind, current, versions, source, _vector(json.loads(up)), attribution, created, updated)


def _version(kind: Any, row: tuple[Any, ...]) -> Version:
    number, digest, nbytes, motion_s, edit, count, sh_degree, bounds, created = row
    least, most, centre, radius = json.loads(bounds)
    ref = SceneRef(kind, digest, nbytes, motion_s)
    box = Bounds(_vector(least), _vector(most), _vector(centre), radius)
    return Version(number, ref, edit, count, sh_degree, box, created)


def _vector(values: list[float]) -> tuple[float, float, float]:
    x, y, z = values
    return x, y, z
