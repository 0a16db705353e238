"""Answers kept for the same question: in memory, and in Redis where replicas share one.

What is kept is bytes, so that its size is known and no caller can change another's answer. Some failures are answers as
well: a prompt that is too long, or content that is refused, will be so again, and are remembered for a short time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import orjson
from cachetools import TLRUCache

from serve.config.resilience import Cache as Settings
from serve.errors import ArgusError, ContentRefused, ContextTooLong
from serve.resilience.failures import failure_class
from serve.resilience.jobs import Codec
from serve.resilience.recorder import CacheResult, Recorder
from serve.resilience.shared import NotShared, SharedStore

T = TypeVar("T")

_VALUE, _ERROR = b"v", b"e"
# What an entry costs beside its bytes: key, dictionary slots, expiry.
_ENTRY_BYTES = 512
_MOST_WRITES = 128
# A copy of what Redis holds is kept for so long at most: its age is not known here.
_COPY_S = 30.0
_ERRORS: dict[str, type[ArgusError]] = {"refused": ContentRefused, "context_too_long": ContextTooLong}


@dataclass(frozen=True, slots=True)
class _Entry:
    data: bytes
    ttl_s: float


class ResponseCache:
    """See the module's text.

    Args:
        shared: asked after memory; None for memory alone.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        settings: Settings,
        shared: SharedStore | None,
        recorder: Recorder,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._shared = shared
        self._recorder = recorder
        self._memory: TLRUCache[bytes, _Entry] = TLRUCache(
            settings.max_bytes,
            ttu=lambda _, entry, now: now + entry.ttl_s,
            timer=clock,
            getsizeof=lambda entry: len(entry.data) + _ENTRY_BYTES,
        )
        self._writes: set[asyncio.Task[None]] = set()

    @property
    def bytes_in_memory(self) -> int:
        """What the entries in memory take, about."""
        return int(self._memory.currsize)

    def here(self, key: bytes, codec: Codec[T], target: str) -> tuple[T] | None:
        """What memory has: the value in a tuple of its own (a value may be None), or None for nothing.

        Raises:
            ArgusError: the failure that is remembered.
        """
        entry = self._memory.get(key)
        return None if entry is None else self._read(entry.data, codec, target, "hit")

    async def elsewhere(self, key: bytes, codec: Codec[T], target: str) -> tuple[T] | None:
        """The same of Redis, once memory has nothing.

        Raises:
            ArgusError: the failure that is remembered.
        """
        data = await self._from_shared(key)
        found = None if data is None else self._read(data, codec, target, "shared_hit")
        if found is None or data is None:
            self._recorder.cache(target, "miss")
            return None
        self._remember(key, _Entry(data, min(_COPY_S, self._settings.ttl_s)))
        return found

    def put(self, key: bytes, codec: Codec[T], value: T, target: str) -> None:
        """Keeps a value, unless its codec says that it must not be."""
        data = codec.encode(value)
        if data is not None:
            self._store(key, _Entry(_VALUE + data, self._settings.ttl_s), target)

    def put_error(self, key: bytes, error: ArgusError, target: str) -> None:
        """Remembers a failure that would be the same again; any other is forgotten."""
        kind = failure_class(error)
        if kind in _ERRORS and self._settings.error_ttl_s > 0:
            data = _ERROR + orjson.dumps([kind, error.message, error.code, error.param])
            self._store(key, _Entry(data, self._settings.error_ttl_s), target)

    async def close(self) -> None:
        """Ends writes in progress."""
        for task in list(self._writes):
            task.cancel()
        await asyncio.gather(*self._writes, return_exceptions=True)

    def _store(self, key: bytes, entry: _Entry, target: str) -> None:
        self._remember(key, entry)
        if self._shared is None:
            return
        if len(self._writes) >= _MOST_WRITES:
            self._recorder.cache(target, "store_failed")
            return
        # No request waits for what only later ones gain from.
        task = asyncio.get_running_loop().create_task(self._to_shared(self._shared, key, entry, target))
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)

    def _remember(self, key: bytes, entry: _Entry) -> None:
        if len(entry.data) + _ENTRY_BYTES <= self._settings.max_bytes:
            self._memory[key] = entry

    def _read(self, data: bytes, codec: Codec[T], target: str, where: CacheResult) -> tuple[T] | None:
        found = _opened(data, codec)
        if isinstance(found, ArgusError):
            self._recorder.cache(target, "negative_hit")
            raise found
        if found is not None:
            self._recorder.cache(target, where)
        return found

    async def _from_shared(self, key: bytes) -> bytes | None:
        if self._shared is None:
            return None
        name = self._shared.key("answer", key.hex())
        try:
            data = await self._shared.ask(lambda redis: redis.get(name))
        except NotShared:
            return None
        return data if isinstance(data, bytes) else None

    async def _to_shared(self, shared: SharedStore, key: bytes, entry: _Entry, target: str) -> None:
        name = shared.key("answer", key.hex())
        try:
            await shared.ask(lambda redis: redis.set(name, entry.data, px=max(1, round(entry.ttl_s * 1e3))))
        except NotShared:
            self._recorder.cache(target, "store_failed")


def _opened(data: bytes, codec: Codec[T]) -> tuple[T] | ArgusError | None:
    """A value, an error, or None when the bytes are neither: another version of Argus may have written them."""
    try:
        if data[:1] == _VALUE:
            return (codec.decode(data[1:]),)
        if data[:1] == _ERROR:
            kind, message, code, param = orjson.loads(data[1:])
            return _ERRORS[kind](message, code=code, param=param)
    except (ValueError, KeyError):
        pass
    return None
