"""The vector index as an actor: `VectorStore` behind async methods.

The event loop never waits for disk or FAISS. One thread writes, with group commit; a few threads read. FAISS and SQLite
release the interpreter lock while they work.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from deployments.folder_lock import wait_for_predecessor
from deployments.vector_commit import GroupCommit, WriteStats
from deployments.vector_faiss import set_threads
from deployments.vector_filter import Filter
from deployments.vector_store import VectorStore
from deployments.vector_types import Hit, IndexInfo, IndexSpec, Item
from serve.errors import Overloaded, Unavailable

_Result = TypeVar("_Result")
_log = logging.getLogger(__name__)


class VectorIndex:
    """One replica owns one folder; a second one is refused while the first lives, so run exactly one.

    A cancelled call either happened entirely or not at all; what already runs on a thread runs to its end.
    Errors of each method are those of the `VectorStore` method of the same name, and:

    Raises:
        Overloaded: too many calls of that kind are waiting; nothing ran.
        Unavailable: `store_closed`, after `close`.

    Args:
        root: the store's folder.
        max_bytes: memory for all indexes; see `VectorStore`.
        max_indexes: number of indexes.
        read_threads: searches and gets that run at a time.
        faiss_threads: threads FAISS uses within one call. One is best under load: concurrency comes from the readers.
        max_waiting_reads: searches, gets and preparations of adds that may run or wait.
        max_waiting_writes: creates, drops and deletes that may run or wait.
        max_pending_items: items of adds that may wait to be written.
    """

    def __init__(
        self,
        root: str,
        max_bytes: int,
        max_indexes: int = 1000,
        *,
        read_threads: int = 2,
        faiss_threads: int = 1,
        max_waiting_reads: int = 512,
        max_waiting_writes: int = 64,
        max_pending_items: int = 20_000,
    ) -> None:
        # An open index holds five files and more.
        most_files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
        set_threads(faiss_threads)  # For this thread, which fills the indexes now.
        wait_for_predecessor(Path(root))
        self._store = VectorStore(Path(root), max_bytes=max_bytes, max_indexes=max_indexes)
        self._readers = _pool("vector-read", read_threads, faiss_threads)
        self._writer = _pool("vector-write", 1, faiss_threads)
        # Of its own, so that a full queue of searches does not make a healthy replica look dead.
        self._prober = _pool("vector-health", 1, faiss_threads)
        self._read_slots = threading.Semaphore(max_waiting_reads)
        self._write_slots = threading.Semaphore(max_waiting_writes)
        self._adds = GroupCommit(self._store.commit, self._maintain, self._writer, max_pending_items=max_pending_items)
        self._closed = False

    async def create(self, spec: IndexSpec) -> IndexInfo:
        """Creates an empty index; does nothing if it exists with an equal spec."""
        return await self._write(lambda: self._store.create(spec))

    async def drop(self, name: str) -> None:
        """Deletes an index and its items."""
        await self._write(lambda: self._store.drop(name))

    async def list_indexes(self) -> list[IndexInfo]:
        """Every index, by name."""
        self._usable()
        return self._store.list_indexes()

    async def info(self, name: str) -> IndexInfo:
        """One index."""
        self._usable()
        return self._store.info(name)

    async def add(self, name: str, items: Sequence[Item]) -> int:
        """Adds or replaces items, all or none; durable when it returns. Shares a commit with concurrent adds."""
        records = await self._read(lambda: self._store.prepare(name, items))
        self._usable()
        return await asyncio.wrap_future(self._adds.submit(name, records))

    async def delete(self, name: str, *, ids: Iterable[str] | None = None, filter: Filter | None = None) -> int:
        """Deletes items by id or by filter; the number deleted."""
        deleted = await self._write(lambda: self._store.remove(name, ids=ids, filter=filter))
        if not self._closed:
            self._writer.submit(self._maintain, name)
        return deleted

    async def get(self, name: str, ids: Iterable[str]) -> list[Item]:
        """The items among `ids` that exist, in the order asked for."""
        return await self._read(lambda: self._store.get(name, ids))

    async def search(
        self, name: str, queries: Any, k: int, *, filter: Filter | None = None, include_vectors: bool = False
    ) -> list[list[Hit]]:
        """The best k items for each of (q, dimension) queries, best first."""
        return await self._read(
            lambda: self._store.search(name, queries, k, filter=filter, include_vectors=include_vectors)
        )

    async def stats(self) -> WriteStats:
        """How many adds were committed, and in how many commits."""
        return self._adds.stats

    async def check_health(self) -> None:
        """Reads and searches every index once, as a request would.

        Raises:
            ArgusError: something on that path is broken; Ray Serve then replaces the replica.
        """
        self._usable()
        await asyncio.get_running_loop().run_in_executor(self._prober, self._store.check)

    async def close(self) -> None:
        """Refuses new calls, lets accepted ones finish, and frees the folder. May be called again."""
        self._closed = True
        await asyncio.to_thread(self._shut_down)

    def _maintain(self, name: str) -> None:
        try:
            self._store.maintain(name)
        except Exception:  # What was written is safe on disk, and the next change tries again.
            _log.exception("maintenance of index %s failed", name)

    def _shut_down(self) -> None:
        self._adds.wait_idle()  # First: a group that does not take all asks the writer for another turn.
        for pool in (self._readers, self._writer, self._prober):
            pool.shutdown(wait=True)
        self._store.close()

    async def _read(self, call: Callable[[], _Result]) -> _Result:
        return await self._run(self._readers, self._read_slots, call)

    async def _write(self, call: Callable[[], _Result]) -> _Result:
        return await self._run(self._writer, self._write_slots, call)

    async def _run(self, pool: Executor, slots: threading.Semaphore, call: Callable[[], _Result]) -> _Result:
        self._usable()
        if not slots.acquire(blocking=False):
            raise Overloaded("too many calls are waiting for the vector index", code="vector_index_overloaded")
        # The slot is freed when the thread is, not when a cancelled caller stops waiting for it.
        future = pool.submit(call)
        future.add_done_callback(lambda _: slots.release())
        return await asyncio.wrap_future(future)

    def _usable(self) -> None:
        if self._closed:
            raise Unavailable("the vector index is closed", code="store_closed")


def _pool(name: str, threads: int, faiss_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix=name, initializer=set_threads, initargs=(faiss_threads,))
