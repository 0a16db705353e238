"""Scenes on disk: names and versions in a database, files by their content beside it.

`deployments.scenes.stored_files` says how both stay in step.
"""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from deployments.scenes import sql
from deployments.scenes.blobs import Blobs
from deployments.scenes.history import conflict, neighbour, version_of
from deployments.scenes.stored_files import StoredFiles
from deployments.scenes.types import Artifact, Label, NewScene, SceneFile, SceneInfo, StoreStats, Version
from deployments.sqlite_store import Database
from serve.errors import Conflict, NotFound, OutOfCapacity

T = TypeVar("T")

# Of the database, which holds a few hundred bytes for each version.
_DATABASE_BYTES: Final = 1 << 30


class SceneStore:
    """All methods block and may be called from any thread. Sending one twice is as good as sending it once, where it
    names the version that it starts from.

    Args:
        root: the store's folder; made when absent.
        blobs: where the files lie; they belong to this store alone.
        max_bytes: of all files.
        max_versions: of a scene.
        artifact_ttl_s: seconds that exports and videos are kept.
        max_artifacts: exports and videos, which may be small.
        clock: Unix time in seconds.

    Raises:
        Conflict, Unavailable: see `Database` and `Blobs`; so do all methods.
    """

    def __init__(
        self,
        root: Path,
        blobs: Blobs,
        *,
        max_bytes: int,
        max_scenes: int,
        max_versions: int,
        artifact_ttl_s: float,
        max_artifacts: int = 10_000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._blobs = blobs
        self._max_bytes, self._max_scenes, self._max_versions = max_bytes, max_scenes, max_versions
        self._ttl_s, self._max_artifacts = artifact_ttl_s, max_artifacts
        self._clock = clock
        self._database = Database(
            root,
            sql.SCHEMA,
            sql.FORMAT,
            max_bytes=_DATABASE_BYTES,
            store="scene store",
            upgrades=sql.UPGRADES,
        )
        self._files = StoredFiles(blobs, self._database)
        try:
            with self._database.reading() as connection:
                owner = sql.store_id(connection)
            blobs.claim(owner)
            self._files.compare(blobs.list())
        except BaseException:
            self.close()
            raise

    # Scenes.

    def get(self, name: str) -> SceneInfo:
        """One scene.

        Raises:
            NotFound: `scene_not_found`; so do the methods below.
        """
        with self._database.reading() as connection:
            return _found(sql.scene(connection, name))

    def has(self, name: str) -> bool:
        """Whether there is such a scene."""
        with self._database.reading() as connection:
            return sql.scene(connection, name) is not None

    def resolve(self, name: str, number: int | None) -> tuple[SceneInfo, Version]:
        """A scene and one of its versions; the current one when None.

        Raises:
            NotFound: `version_not_found`.
        """
        info = self.get(name)
        return info, version_of(info, number)

    def list_scenes(self, after: str | None, limit: int) -> tuple[SceneInfo, ...]:
        """Scenes by name, from the one after `after` on."""
        with self._database.reading() as connection:
            return sql.scenes(connection, after, limit)

    def find_put(self, name: str, upload: bytes, *, replace: bool) -> SceneInfo | None:
        """The scene that the same upload made before; None when `put` may go on.

        Args:
            upload: digest of what was sent.

        Raises:
            Conflict: `scene_exists`.
            OutOfCapacity: there are as many scenes as are allowed.
        """
        with self._database.reading() as connection:
            return self._find_put(connection, name, upload, replace=replace)

    def put(self, new: NewScene, file: SceneFile, path: Path, upload: bytes, *, replace: bool) -> SceneInfo:
        """A scene from a file, which is moved from `path` into the store; on disk when this returns.

        Raises:
            Conflict: `scene_exists`.
            OutOfCapacity: no room for it.
        """

        def change(connection: sqlite3.Connection) -> SceneInfo:
            found = self._find_put(connection, new.name, upload, replace=replace)
            if found is not None:
                return found
            sql.insert(connection, new, file, upload, self._clock())
            return _found(sql.scene(connection, new.name))

        with self._files.stored(file.ref.digest, path):
            return self._change(change)

    def find_edit(self, name: str, base: int, request: bytes) -> SceneInfo | None:
        """The scene as the same edits made it before; None when `edit` may go on.

        Args:
            base: number of the version that was edited.
            request: digest of the edits.

        Raises:
            Conflict: `version_conflict`; another version is the current one.
        """
        with self._database.reading() as connection:
            return self._find_edit(connection, _found(sql.scene(connection, name)), base, request)

    def edit(self, name: str, base: Version, file: SceneFile, path: Path, request: bytes) -> SceneInfo:
        """A new version, from a file as in `put`; those after `base`, which were undone, are dropped.

        Raises:
            Conflict: `version_conflict`.
            OutOfCapacity: no room for it.
        """

        def change(connection: sqlite3.Connection) -> SceneInfo:
            info = _found(sql.scene(connection, name))
            found = self._find_edit(connection, info, base.number, request)
            if found is not None:
                return found
            if info.shown.ref != base.ref:  # another scene has taken the name
                raise conflict(base.number, info)
            sql.append(connection, name, file, request, self._max_versions, self._clock())
            return _found(sql.scene(connection, name))

        with self._files.stored(file.ref.digest, path):
            return self._change(change)

    def undo(self, name: str, base: int | None) -> SceneInfo:
        """Shows the version before `base`, or before the current one when None.

        Raises:
            Conflict: `nothing_to_undo`, `version_conflict`.
        """
        return self._step(name, base, -1)

    def redo(self, name: str, base: int | None) -> SceneInfo:
        """Shows the version after `base`, or after the current one when None.

        Raises:
            Conflict: `nothing_to_redo`, `version_conflict`.
        """
        return self._step(name, base, 1)

    def delete(self, name: str) -> None:
        """Deletes a scene with all its versions; exports of it stay until they expire."""

        def change(connection: sqlite3.Connection) -> None:
            _found(sql.scene(connection, name))
            sql.delete(connection, name)

        self._change(change)

    # Artifacts.

    def add_artifact(self, label: Label, data: bytes) -> Artifact:
        """Keeps a file for a while; on disk when this returns.

        Raises:
            OutOfCapacity: no room for it.
        """
        with self._files.pinned(digest := self._blobs.digest(data)):
            self._blobs.write(data)
            return self._change(lambda connection: self._add(connection, label, digest, len(data), None))

    def find_export(self, export: str, label: Label) -> Artifact | None:
        """An export that was made before, under that label, to be kept as long as a new one.

        Args:
            export: digest of the scene's file, and format.
        """

        def change(connection: sqlite3.Connection) -> Artifact | None:
            now = self._clock()
            if found := sql.exported(connection, export, label, now):
                sql.keep(connection, found[0].id, now + self._ttl_s)
                return _found_artifact(sql.artifact(connection, found[0].id, now))[0]
            if found := sql.exported(connection, export, None, now):
                return self._add(connection, label, found[1], found[0].nbytes, export)
            return None

        return self._change(change)

    def add_export(self, export: str, label: Label, path: Path, digest: str) -> Artifact:
        """Keeps an export, which is moved from `path` into the store.

        Raises:
            OutOfCapacity: no room for it.
        """
        nbytes = path.stat().st_size
        with self._files.stored(digest, path):
            return self._change(lambda connection: self._add(connection, label, digest, nbytes, export))

    def add_own_export(self, version: Version, export: str, label: Label) -> Artifact:
        """Keeps a version's own file as an export.

        Raises:
            NotFound: `scene_gone`; the version was deleted meanwhile.
        """

        def change(connection: sqlite3.Connection) -> Artifact:
            if not sql.has_file(connection, version.ref.digest):
                raise NotFound("This version is gone.", code="scene_gone", param="version")
            return self._add(connection, label, version.ref.digest, version.ref.nbytes, export)

        return self._change(change)

    def artifact(self, artifact_id: str) -> Artifact:
        """What is known of an artifact.

        Raises:
            NotFound: `artifact_not_found`.
        """
        return self._artifact(artifact_id)[0]

    def read(self, key: str, offset: int, length: int) -> bytes:
        """Up to `length` bytes of an artifact, or of a file of a scene.

        Args:
            key: an artifact's id, or a file's digest.

        Raises:
            NotFound: `artifact_not_found`, `scene_gone`.
        """
        digest = key if Blobs.is_digest(key) else self._artifact(key)[1]
        return self._blobs.read_range(digest, offset, length)

    # Housekeeping.

    def sweep(self) -> int:
        """Deletes the artifacts past their time; their number."""
        with self._database.reading() as connection:
            if not sql.expired(connection, self._clock()):
                return 0
        return self._change(lambda connection: sql.expire(connection, self._clock()))

    def stats(self) -> StoreStats:
        """How full the store is."""
        with self._database.reading() as connection:
            return sql.stats(connection)

    def check(self) -> None:
        """See `Database.check`."""
        self._database.check()

    def close(self) -> None:
        """Frees the folder."""
        self._database.close()

    def _find_put(self, connection: sqlite3.Connection, name: str, upload: bytes, *, replace: bool) -> SceneInfo | None:
        info = sql.scene(connection, name)
        if info is not None and len(info.versions) == 1 and sql.upload(connection, name) == upload:
            return info
        if info is not None and not replace:
            raise Conflict(
                f"There is a scene {name!r} already; say `replace` to put another in its place.",
                code="scene_exists",
                param="name",
            )
        if info is None and sql.stats(connection).scenes >= self._max_scenes:
            raise OutOfCapacity(f"The scene store holds its {self._max_scenes} scenes; delete one first.")
        return None

    def _find_edit(
        self, connection: sqlite3.Connection, info: SceneInfo, base: int, request: bytes
    ) -> SceneInfo | None:
        if info.current == base:
            return None
        before = neighbour(info, info.current, -1)
        if before is not None and before.number == base and sql.request(connection, info.name, info.current) == request:
            return info
        raise conflict(base, info)

    def _step(self, name: str, base: int | None, way: int) -> SceneInfo:
        def change(connection: sqlite3.Connection) -> SceneInfo:
            info = _found(sql.scene(connection, name))
            start = info.current if base is None else base
            goal = neighbour(info, start, way)
            if goal is not None and goal.number == info.current:
                return info  # sent again
            if start != info.current:
                raise conflict(start, info)
            if goal is None:
                verb = "undo" if way < 0 else "redo"
                raise Conflict(f"There is nothing to {verb} in {name!r}.", code=f"nothing_to_{verb}", param="scene")
            sql.show(connection, name, goal.number, self._clock())
            return _found(sql.scene(connection, name))

        return self._change(change)

    def _add(
        self, connection: sqlite3.Connection, label: Label, digest: str, nbytes: int, export: str | None
    ) -> Artifact:
        now = self._clock()
        if sql.stats(connection).artifacts >= self._max_artifacts:
            sql.expire(connection, now)
        if sql.stats(connection).artifacts >= self._max_artifacts:
            raise OutOfCapacity(f"The scene store holds its {self._max_artifacts:,} exports and videos.")
        key = f"art_{secrets.token_urlsafe(24)}"
        artifact = Artifact(key, label.scene, label.filename, label.media_type, nbytes, now + self._ttl_s)
        sql.add_artifact(connection, artifact, digest, export)
        return artifact

    def _artifact(self, artifact_id: str) -> tuple[Artifact, str]:
        with self._database.reading() as connection:
            return _found_artifact(sql.artifact(connection, artifact_id, self._clock()))

    def _change(self, change: Callable[[sqlite3.Connection], T]) -> T:
        """A transaction that leaves the store within its bounds; files that nothing stands on afterwards are deleted.

        In a full store, what has expired goes first.
        """
        with self._database.changing() as connection:
            result = change(connection)
            dropped = sql.drop_files(connection)
            if sql.used_bytes(connection) > self._max_bytes:
                sql.expire(connection, self._clock())
                dropped += sql.drop_files(connection)
            if (used := sql.used_bytes(connection)) > self._max_bytes:
                raise OutOfCapacity(
                    f"The scene store would hold {used:,} bytes; at most {self._max_bytes:,} are allowed. Delete "
                    "scenes, or wait until exports expire."
                )
        self._files.delete_orphans(dropped)
        return result


def _found(info: SceneInfo | None) -> SceneInfo:
    if info is None:
        raise NotFound("There is no such scene.", code="scene_not_found", param="scene")
    return info


def _found_artifact(found: tuple[Artifact, str] | None) -> tuple[Artifact, str]:
    if found is None:
        raise NotFound("There is no such file, or it has expired.", code="artifact_not_found", param="id")
    return found
