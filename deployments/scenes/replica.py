"""The deployment that holds the scenes. Files are read, edited and written in worker processes, one after the other
for each scene; names, versions and the files' places are the store's."""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace as with_fields
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, TypeVar
from weakref import WeakValueDictionary

from deployments.base import STALL_S
from deployments.folder_lock import wait_for_predecessor
from deployments.messages import ModelInfo
from deployments.scenes import checks, work
from deployments.scenes.blobs import Blobs, blobs_of
from deployments.scenes.metrics import SceneMetrics
from deployments.scenes.store import SceneStore
from deployments.scenes.types import Artifact, NewScene, SceneFile, SceneInfo, StoreStats, Vector, Version
from deployments.splat.edits_types import Edit, Merge
from deployments.store_replica import StoreThread
from deployments.worker_pool import Subject, WorkerPool
from serve.config.checkpoints import DEMO_SCENES
from serve.config.scene_models import SceneStoreModel
from serve.errors import ArgusError, NotFound, Overloaded, PayloadTooLarge, Unavailable, Unsupported

T = TypeVar("T")

# Most scenes' files look so: what photos were taken with has its y axis down.
DEFAULT_UP: Final[Vector] = (0.0, -1.0, 0.0)
_SCENES: Final = Subject("scene store", "scene", "scene")
# Scenes that are worked on or wait for it; each may hold a file of a client in memory.
_MOST_AT_ONCE: Final = 64
# What writes, or reads files, does so on threads of its own: an object store that is slow delays no `resolve`.
_FILE_THREADS: Final = 4
_log: Final = logging.getLogger(__name__)


class SceneStoreReplica:
    """`SceneStore` behind async methods, with what makes scenes of files. Run exactly one.

    A call that was accepted runs to its end, also when its caller leaves.

    Raises:
        Overloaded: too many calls are waiting; nothing ran.
    """

    def __init__(self, model: SceneStoreModel, clock: Callable[[], float] = time.time) -> None:
        self._started = time.monotonic()
        self._model = model
        self._metrics = SceneMetrics()
        self._blobs = blobs_of(model)
        wait_for_predecessor(Path(model.path))
        self._store = SceneStore(
            Path(model.path),
            self._blobs,
            max_bytes=model.max_bytes,
            max_scenes=model.max_scenes,
            max_versions=model.max_versions,
            artifact_ttl_s=model.artifact_ttl_s,
            clock=clock,
        )
        self._work = Path(model.path) / "work"
        shutil.rmtree(self._work, ignore_errors=True)  # of a process that was killed; the folder is ours by now
        self._work.mkdir()
        self._thread = StoreThread("scene store", model.batching.max_queue)
        self._files = StoreThread("scene files", model.batching.max_queue, threads=_FILE_THREADS)
        settings = work.WorkerSettings(int(model.worker_memory_gb * 1e9), model.max_gaussians)
        workers, seconds = model.placement.preprocess_workers, model.decode_s
        self._pool = WorkerPool(_SCENES, workers, seconds, _MOST_AT_ONCE, work.start, settings)
        # Starts with the first field: torch takes some time, and some memory that is not the file's.
        self._field_pool = WorkerPool(_SCENES, 1, seconds, _MOST_AT_ONCE, work.start_for_fields, settings)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._running: set[asyncio.Task[Any]] = set()
        self._preloading = asyncio.Lock()
        self._info: ModelInfo | None = None

    async def info(self) -> ModelInfo:
        """Load time, once the scenes of `preload` are in."""
        async with self._preloading:
            if self._info is None:
                await asyncio.gather(*(self._pool.run(work.ready) for _ in range(self._pool.workers)))
                for name, file in self._model.preload.items():
                    await self._preload(name, Path(file))
                self._info = ModelInfo("cpu", time.monotonic() - self._started)
        return self._info

    async def put(
        self,
        name: str,
        data: bytes,
        format: str | None = None,
        filename: str | None = None,
        up: Vector | None = None,
        attribution: str = "",
        replace: bool = False,
        source: str | None = None,
    ) -> SceneInfo:
        """A scene from a file of Gaussians or of a radiance field (`deployments.nerf.checkpoint`), durable when this
        returns. Sent again, it changes nothing.

        Args:
            format: of `deployments.splat.formats`; found by content, and by `filename`, when None.
            up: any length but 0; `DEFAULT_UP` when None.
            replace: put it in the place of a scene of that name; its history goes, its versions' numbers go on.
            source: see `SceneInfo`; the file's format when None.

        Raises:
            InvalidRequest: `invalid_scene_name`, `invalid_up`, `attribution_too_long`, `unknown_scene_format`.
            InvalidMedia: what is wrong with the file; `scene_too_slow`, `scene_crashed`, `scene_too_large`.
            UnsupportedMedia: `unknown_scene_format`.
            PayloadTooLarge: `too_many_gaussians`, or too many bytes.
            Conflict: `scene_exists`.
            OutOfCapacity: no room for it.
        """
        known = None if format is None else checks.scene_format(format)
        if checks.is_field(data):
            return await self.put_field(name, data, up, attribution, replace, source)

        async def read(path: Path, target: Path) -> tuple[SceneFile, Path]:
            return await self._pool.run(work.read_scene, path, target, known, filename), target

        new = checks.new_scene(name, up or DEFAULT_UP, attribution)
        return await self._put(new, data, repr((known, filename)), read, source, replace=replace)

    async def put_field(
        self,
        name: str,
        data: bytes,
        up: Vector | None = None,
        attribution: str = "",
        replace: bool = False,
        source: str | None = None,
    ) -> SceneInfo:
        """A scene from a radiance field's file (`deployments.nerf.checkpoint`); the rest is as in `put`."""

        async def read(path: Path, target: Path) -> tuple[SceneFile, Path]:
            return await self._field_pool.run(work.read_field, path), path

        new = checks.new_scene(name, up or DEFAULT_UP, attribution)
        return await self._put(new, data, "field", read, source, replace=replace)

    async def get(self, name: str) -> SceneInfo:
        """See `SceneStore.get`; likewise below."""
        return await self._thread.run(lambda: self._store.get(name))

    async def list_scenes(self, after: str | None, limit: int) -> tuple[SceneInfo, ...]:
        """By name."""
        return await self._thread.run(lambda: self._store.list_scenes(after, limit))

    async def resolve(self, name: str, version: int | None = None) -> tuple[SceneInfo, Version]:
        """What is to be drawn."""
        return await self._thread.run(lambda: self._store.resolve(name, version))

    async def delete(self, name: str) -> None:
        """With all its versions."""
        await self._files.run(lambda: self._store.delete(name))

    async def undo(self, name: str, base_version: int | None = None) -> SceneInfo:
        """One version back."""
        return await self._files.run(lambda: self._store.undo(name, base_version))

    async def redo(self, name: str, base_version: int | None = None) -> SceneInfo:
        """One version on."""
        return await self._files.run(lambda: self._store.redo(name, base_version))

    async def edit(self, name: str, edits: Sequence[Edit], base_version: int | None = None) -> SceneInfo:
        """A new version, durable when this returns. With its base named, it may be sent again.

        Args:
            base_version: the version that is edited, which must be the current one; that one when None.

        Raises:
            NotFound: `scene_not_found`, also of a scene that an edit names.
            Conflict: `version_conflict`.
            Unsupported: `unsupported_edit`; it is a radiance field.
            InvalidRequest: see `deployments.splat.edits.apply`; `empty_scene`.
            PayloadTooLarge: `too_many_gaussians`.
            InvalidMedia: `scene_too_slow`, `scene_crashed`, `scene_too_large`.
            OutOfCapacity: no room for it.
        """
        return await self._whole(lambda: self._edit(name, tuple(edits), base_version))

    async def export(self, name: str, version: int | None, format: str) -> Artifact:
        """A file of a version in a format of `deployments.splat.formats`, made once and kept for a while.

        Raises:
            InvalidRequest: `unknown_scene_format`.
            NotFound: `scene_not_found`, `version_not_found`.
            Unsupported: `unsupported_export`.
            InvalidMedia: `scene_too_slow`, `scene_crashed`, `scene_too_large`.
            OutOfCapacity: no room for it.
        """
        return await self._whole(lambda: self._export(name, version, format))

    async def add_artifact(self, scene: str, filename: str, media_type: str, data: bytes) -> Artifact:
        """Keeps a file that was made from a scene, such as a video, for a while."""
        label = checks.artifact_label(scene, filename, media_type)
        return await self._files.run(lambda: self._store.add_artifact(label, data))

    async def artifact(self, artifact_id: str) -> Artifact:
        """What is known of it."""
        return await self._thread.run(lambda: self._store.artifact(artifact_id))

    async def read(self, key: str, offset: int, length: int) -> bytes:
        """Some bytes of an artifact, by its id, or of a scene's file, by its digest; fewer at its end."""
        return await self._files.run(lambda: self._store.read(key, offset, length))

    async def stats(self) -> StoreStats:
        """How full the store is."""
        return await self._thread.run(self._store.stats)

    async def check_health(self) -> None:
        """Called by Ray Serve every ten seconds, which is also when artifacts expire and metrics are set. Busy is
        healthy: a file that takes too long ends by itself.

        Raises:
            Unavailable: the folder or the database is broken, or a worker has hung past its time; Ray Serve then
                replaces the replica.
        """
        await self._thread.probe(self._store.check)
        await self.info()
        if (longest := max(self._pool.longest_s, self._field_pool.longest_s)) > self._model.decode_s + STALL_S:
            raise Unavailable(f"A scene has been worked on for {longest:.0f} s.")
        await self._thread.probe(self._store.sweep)
        self._metrics.holds(await self._thread.probe(self._store.stats))

    async def close(self) -> None:
        """Ends the workers, lets accepted calls finish and frees the folder."""
        await asyncio.gather(*self._running, return_exceptions=True)
        await asyncio.gather(self._pool.close(), self._field_pool.close())
        await asyncio.to_thread(self._files.close)
        await asyncio.to_thread(self._thread.close)
        self._store.close()

    async def _put(
        self,
        new: NewScene,
        data: bytes,
        how: str,
        read: Callable[[Path, Path], Awaitable[tuple[SceneFile, Path]]],
        source: str | None,
        *,
        replace: bool,
    ) -> SceneInfo:
        """A scene from a client's file.

        Args:
            how: all else that `read` depends on.
            read: takes the file and a place for the store's own, says what is in it and where the store's own is.
        """
        if len(data) > self._model.max_bytes:
            most = self._model.max_bytes
            raise PayloadTooLarge(f"The file has {len(data):,} bytes; the store holds {most:,} in all.")
        upload = await asyncio.to_thread(_digest, data, repr((new, how, source)))

        async def work_on_it() -> SceneInfo:
            async with self._turn(f"scene {new.name}"), self._folder() as folder:
                found = await self._thread.run(lambda: self._store.find_put(new.name, upload, replace=replace))
                if found is not None:
                    return found
                await self._files.run(lambda: (folder / "upload").write_bytes(data))
                file, path = await read(folder / "upload", folder / "scene")
                if source is not None:
                    file = with_fields(file, source=source)
                return await self._files.run(lambda: self._store.put(new, file, path, upload, replace=replace))

        return await self._whole(work_on_it)

    async def _edit(self, name: str, edits: tuple[Edit, ...], number: int | None) -> SceneInfo:
        async with self._turn(f"scene {name}"), self._folder() as folder:
            info = await self.get(name)
            start = info.current if number is None else number
            if info.kind != "gaussians":
                raise Unsupported("A radiance field cannot be edited.", code="unsupported_edit", param="edits")
            request = await asyncio.to_thread(lambda: _digest(repr(edits).encode(), ""))  # a mask has megabytes
            found = await self._thread.run(lambda: self._store.find_edit(name, start, request))
            if found is not None:
                return found
            _, base = await self.resolve(name, start)
            merged = await self._merged(edits, folder)
            path, target = await self._local(base, folder), folder / "scene"
            file = await self._pool.run(work.edit_scene, path, target, info.source, edits, merged)
            return await self._files.run(lambda: self._store.edit(name, base, file, target, request))

    async def _merged(self, edits: Sequence[Edit], folder: Path) -> dict[work.Named, Path]:
        """Files of the scenes that edits merge in."""
        merged: dict[work.Named, Path] = {}
        for index, edit in enumerate(edits):
            if isinstance(edit, Merge) and (edit.scene, edit.version) not in merged:
                try:
                    info, version = await self.resolve(edit.scene, edit.version)
                except NotFound as error:
                    raise error.at(f"edits[{index}].{error.param}") from error
                if info.kind != "gaussians":
                    raise Unsupported(
                        f"{edit.scene!r} is a radiance field, which cannot be merged into a scene of Gaussians.",
                        code="unsupported_edit",
                        param=f"edits[{index}].scene",
                    )
                merged[edit.scene, edit.version] = await self._local(version, folder)
        return merged

    async def _export(self, name: str, number: int | None, format: str) -> Artifact:
        known = checks.export_format(format)
        info, version = await self.resolve(name, number)
        label = checks.export_label(name, version.number, known, info.kind)
        export = f"{version.ref.digest} {known}"
        async with self._turn(f"export {export}"), self._folder() as folder:
            found = await self._files.run(lambda: self._store.find_export(export, label))
            if found is not None:
                return found
            if known == "argus":
                return await self._files.run(lambda: self._store.add_own_export(version, export, label))
            path, target = await self._local(version, folder), folder / "export"
            digest = await self._pool.run(work.export_scene, path, target, known)
            return await self._files.run(lambda: self._store.add_export(export, label, target, digest))

    async def _local(self, version: Version, folder: Path) -> Path:
        """Where a worker finds the version's file: where it lies, or a copy in `folder`."""
        return await self._files.run(lambda: _on_disk(self._blobs, version.ref.digest, folder))

    async def _preload(self, name: str, file: Path) -> None:
        """Puts a scene in when it is missing. One that cannot be put in is no reason to be without the others."""
        try:
            if await self._thread.run(lambda: self._store.has(name)):
                return
            source = "demo" if file.parent == DEMO_SCENES else None
            await self.put(name, await asyncio.to_thread(file.read_bytes), filename=file.name, source=source)
        except (ArgusError, OSError) as error:
            _log.error("scene %s was not put in from %s: %s", name, file, error)

    @asynccontextmanager
    async def _turn(self, key: str) -> AsyncIterator[None]:
        """One at a time for each key; the lock lives as long as somebody holds it or waits."""
        lock = self._turns.get(key)
        if lock is None:
            lock = self._turns[key] = asyncio.Lock()
        async with lock:
            yield

    @asynccontextmanager
    async def _folder(self) -> AsyncIterator[Path]:
        """A folder for the files of one task, beside the store's own, so that they are moved and not copied."""
        folder = Path(tempfile.mkdtemp(dir=self._work))
        try:
            yield folder
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def _whole(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        if len(self._running) >= _MOST_AT_ONCE:
            raise Overloaded(f"The scene store is at work on {_MOST_AT_ONCE} scenes.", retry_after_s=1.0)
        task = asyncio.ensure_future(work())
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)


def _digest(data: bytes, about: str) -> bytes:
    digest = sha256(data)
    digest.update(about.encode())
    return digest.digest()


def _on_disk(blobs: Blobs, digest: str, folder: Path) -> Path:
    path = blobs.path(digest)
    if path is None:
        path = folder / digest
        path.write_bytes(blobs.read(digest))
    return path
