"""Loaded scenes of one replica, as many as its memory budget holds; the longest unused goes first."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, Generic, Literal, Protocol, TypeVar

from deployments.gpu import CONTEXT_GB
from deployments.rendering.messages import SceneRef
from serve.config.scene_models import RendererModel
from serve.errors import PayloadTooLarge

# Share of the GPU memory that is left to torch which scenes may take; drawing takes the rest.
_SCENES_SHARE: Final = 0.6


def scene_bytes(config: RendererModel, on_gpu: bool) -> int:
    """Memory for scenes, in bytes: as configured, and on a GPU at most a share of the model's budget."""
    configured = config.scene_memory_gb * 1e9
    if not on_gpu:
        return int(configured)
    return int(min(configured, _SCENES_SHARE * (config.gpu_memory_gb - CONTEXT_GB) * 1e9))


class Sized(Protocol):
    """A loaded scene."""

    @property
    def nbytes(self) -> int:
        """Memory that it takes, in bytes."""


class CacheObserver(Protocol):
    """Where a cache reports to; a replica turns these into metrics. Must not raise."""

    def asked(self, result: Literal["hit", "miss"]) -> None:
        """A scene was asked for. One that is being loaded for another caller is a hit."""

    def loaded(self, seconds: float, failed: bool) -> None:
        """A load ended."""

    def evicted(self) -> None:
        """A scene went to make room."""

    def holds(self, scenes: int, nbytes: int) -> None:
        """What is in the cache now."""


T = TypeVar("T", bound=Sized)


@dataclass(slots=True, eq=False)
class _Entry(Generic[T]):
    """A scene, loaded or loading.

    Attributes:
        nbytes: what it is counted as.
        users: callers that hold it; its load counts as one.
        retired: out of the cache; its memory is counted until its last user has left.
    """

    nbytes: int
    users: int = 0
    retired: bool = False
    loading: asyncio.Future[T] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class SceneCache(Generic[T]):
    """Scenes by their digest. For one event loop.

    What callers may rely on:

    * Callers that want one scene at the same time share one load, and one that leaves does not take it from the others.
    * A load that failed is not kept.
    * A scene in use keeps its memory: room for another is made from idle ones, or waited for. Whoever waits for room
      comes before later callers of the scenes that stand in the way, so it does not wait forever.

    Args:
        capacity: bytes of all scenes together.
        load: loads a scene; runs in a task of its own.
    """

    def __init__(
        self, capacity: int, load: Callable[[SceneRef], Awaitable[T]], observer: CacheObserver | None = None
    ) -> None:
        self._capacity = capacity
        self._load = load
        self._observer = observer or _Silent()
        self._used = 0
        self._entries: OrderedDict[str, _Entry[T]] = OrderedDict()
        self._door = asyncio.Lock()
        self._freed = asyncio.Event()
        # The event loop itself keeps weak references to tasks only.
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def used(self) -> int:
        """Bytes of what is held, loading scenes and such as are out of the cache but still in use included."""
        return self._used

    @asynccontextmanager
    async def use(self, scene: SceneRef) -> AsyncIterator[T]:
        """The scene, loaded; it stays in memory within the block.

        Raises:
            PayloadTooLarge: `scene_too_large`: it is larger than all the memory there is for scenes.
            Exception: what `load` raised.
        """
        entry = self._entries.get(scene.digest)
        self._observer.asked("miss" if entry is None else "hit")
        if entry is None:
            entry = await self._admit(scene)
        self._entries.move_to_end(scene.digest)
        entry.users += 1
        try:
            yield await asyncio.shield(entry.loading)
        finally:
            self._leave(entry)

    async def _admit(self, scene: SceneRef) -> _Entry[T]:
        """The scene's entry, its load begun: by this caller, or by another while this one waited for room."""
        self._check(scene.nbytes)
        # One after the other, so that small scenes do not pass a large one forever.
        async with self._door:
            while (entry := self._entries.get(scene.digest)) is None and self._used + scene.nbytes > self._capacity:
                self._freed.clear()
                if not self._make_room(scene.nbytes):
                    await self._freed.wait()
            return entry or self._begin(scene)

    def _begin(self, scene: SceneRef) -> _Entry[T]:
        entry: _Entry[T] = _Entry(scene.nbytes, users=1)
        self._entries[scene.digest] = entry
        self._used += entry.nbytes
        task = asyncio.create_task(self._fill(scene, entry), name=f"load {scene.digest[:12]}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return entry

    async def _fill(self, scene: SceneRef, entry: _Entry[T]) -> None:
        started = time.monotonic()
        try:
            loaded = await self._load(scene)
            self._check(loaded.nbytes)
        except BaseException as error:  # whatever it is, those who wait for the scene must hear of it
            self._retire(scene.digest, entry)
            if isinstance(error, asyncio.CancelledError):
                entry.loading.cancel()
                raise
            entry.loading.set_exception(error)
            entry.loading.exception()  # seen: nobody may be waiting any more
        else:
            # A scene is as large as its file until it is known better.
            self._used += loaded.nbytes - entry.nbytes
            entry.nbytes = loaded.nbytes
            entry.loading.set_result(loaded)
            self._make_room(0)
        finally:
            failed = entry.loading.cancelled() or entry.loading.exception() is not None
            self._observer.loaded(time.monotonic() - started, failed)
            self._leave(entry)

    def _check(self, nbytes: int) -> None:
        if nbytes > self._capacity:
            raise PayloadTooLarge(
                f"The scene takes {nbytes:,} bytes of memory; its renderer has {self._capacity:,} for scenes "
                "(scene_memory_gb).",
                code="scene_too_large",
                param="scene",
            )

    def _make_room(self, nbytes: int) -> bool:
        """Takes scenes out of the cache, the longest unused first and idle ones before those in use.

        Returns:
            Whether the room is there now; else it comes as users leave.
        """
        by_idleness = sorted(self._entries.items(), key=lambda item: item[1].users > 0)
        # What is out of the cache already, but not yet out of memory.
        coming = self._used - sum(entry.nbytes for entry in self._entries.values())
        for digest, entry in by_idleness:
            if self._used - coming + nbytes <= self._capacity:
                break
            coming += entry.nbytes if entry.users else 0
            self._retire(digest, entry)
            self._observer.evicted()
        return self._used + nbytes <= self._capacity

    def _retire(self, digest: str, entry: _Entry[T]) -> None:
        if self._entries.get(digest) is entry:
            del self._entries[digest]
        entry.retired = True
        if not entry.users:
            self._free(entry)

    def _leave(self, entry: _Entry[T]) -> None:
        entry.users -= 1
        if entry.retired and not entry.users:
            self._free(entry)
        self._observer.holds(len(self._entries), self._used)

    def _free(self, entry: _Entry[T]) -> None:
        self._used -= entry.nbytes
        self._freed.set()


class _Silent:
    """Reports nothing."""

    def asked(self, result: Literal["hit", "miss"]) -> None: ...

    def loaded(self, seconds: float, failed: bool) -> None: ...

    def evicted(self) -> None: ...

    def holds(self, scenes: int, nbytes: int) -> None: ...
