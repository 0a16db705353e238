"""Label-set features, computed once: a bounded cache in which concurrent misses of one key share one computation."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class LabelCache(Generic[T]):
    """Least recently used values, bounded by the summed `size` of what they hold.

    A computation runs in a task of its own: a caller that leaves does not take it from the others that wait for it.
    A failed computation is not kept.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._used = 0
        self._entries: OrderedDict[Hashable, tuple[int, asyncio.Task[T]]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def used(self) -> int:
        """Summed size of what is held."""
        return self._used

    async def get(self, key: Hashable, size: int, compute: Callable[[], Awaitable[T]]) -> T:
        """The value of `key`; computed now if it is not there. A value larger than the whole cache is not kept."""
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
            return await asyncio.shield(entry[1])
        task = asyncio.ensure_future(_run(compute))
        if size <= self._capacity:
            self._keep(key, size, task)
        return await asyncio.shield(task)

    def _keep(self, key: Hashable, size: int, task: asyncio.Task[T]) -> None:
        self._entries[key] = (size, task)
        self._used += size
        task.add_done_callback(lambda done: self._forget_failed(key, done))
        while self._used > self._capacity:
            _, (evicted, _) = self._entries.popitem(last=False)
            self._used -= evicted

    def _forget_failed(self, key: Hashable, task: asyncio.Task[T]) -> None:
        failed = task.cancelled() or task.exception() is not None
        if failed and key in self._entries and self._entries[key][1] is task:
            self._used -= self._entries.pop(key)[0]


async def _run(compute: Callable[[], Awaitable[T]]) -> T:
    return await compute()
