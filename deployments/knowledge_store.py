"""Documents on disk, found by their words, and the deployment that holds them."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from deployments import knowledge_sql as sql
from deployments.folder_lock import wait_for_predecessor
from deployments.knowledge_types import Base, Chunk, Document, Match
from deployments.session_types import StoreStats
from deployments.sqlite_store import Database, used_bytes
from deployments.store_replica import StoreThread
from serve.config.models import KnowledgeStoreModel
from serve.errors import NotFound, OutOfCapacity


class KnowledgeStore:
    """All methods block and may be called from any thread.

    Args:
        root: the store's folder; made when absent.
        max_chunks: of all bases together.
        max_bytes: of the database; see `Database`.
        clock: Unix time in seconds.

    Raises:
        Conflict, Unavailable: see `Database`; so do all methods.
    """

    def __init__(self, root: Path, *, max_chunks: int, max_bytes: int, clock: Callable[[], float] = time.time) -> None:
        self._max_chunks = max_chunks
        self._clock = clock
        self._database = Database(
            root, sql.SCHEMA, sql.FORMAT, max_bytes=max_bytes, store="knowledge store", upgrades=sql.UPGRADES
        )

    def put(self, document: Document, text: str, chunks: Sequence[Chunk]) -> Document:
        """Adds a document, or replaces the one of its id; on disk when this returns. Equal content changes nothing.

        Raises:
            OutOfCapacity: no room for it. Nothing was changed.
        """
        with self._database.changing() as connection:
            before = sql.document(connection, document.base, document.id)
            if before is not None and before.revision == document.revision:
                return before
            kept = sql.count(connection) - (before.chunks if before else 0)
            if kept + len(chunks) > self._max_chunks:
                raise OutOfCapacity(f"The knowledge store would hold more than its {self._max_chunks} chunks.")
            stored = replace(document, chunks=len(chunks), created_at=self._clock())
            sql.put(connection, stored, text, chunks)
            return stored

    def get(self, base: str, document: str) -> tuple[Document, str]:
        """A document and its text.

        Raises:
            NotFound: `document_not_found`.
        """
        with self._database.reading() as connection:
            found = sql.document(connection, base, document)
            if found is None:
                raise _no_document(base, document)
            return found, sql.text(connection, base, document)

    def delete(self, base: str, document: str) -> None:
        """Deletes a document.

        Raises:
            NotFound: `document_not_found`.
        """
        with self._database.changing() as connection:
            if not sql.delete(connection, base, document):
                raise _no_document(base, document)

    def drop(self, base: str) -> int:
        """Deletes all documents of a base; their number."""
        with self._database.changing() as connection:
            return sql.delete(connection, base, None)

    def documents(self, base: str, after: str, limit: int) -> list[Document]:
        """Documents of a base by id, those after `after`."""
        with self._database.reading() as connection:
            return sql.documents(connection, base, after, limit)

    def bases(self) -> list[Base]:
        """Every base, by name."""
        with self._database.reading() as connection:
            return sql.bases(connection)

    def base(self, name: str) -> Base:
        """One base.

        Raises:
            NotFound: `knowledge_not_found`; a base exists while it holds a document.
        """
        with self._database.reading() as connection:
            found = sql.bases(connection, name)
        if not found:
            raise NotFound(f"There is no knowledge base {name!r}.", code="knowledge_not_found", param="knowledge")
        return found[0]

    def search(self, base: str, query: str, limit: int) -> list[Match]:
        """Chunks that hold words of the query, in their title or text, best first."""
        with self._database.reading() as connection:
            return sql.search(connection, base, query, limit)

    def chunks(self, base: str, ids: Sequence[str]) -> list[Chunk]:
        """The chunks among `ids` that exist, in that order."""
        with self._database.reading() as connection:
            return sql.chunks(connection, base, ids)

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


def revision_of(title: str | None, text: str, chunking: str) -> str:
    """Names a document's content.

    Args:
        chunking: names how it is cut; another cut is another revision.
    """
    digest = hashlib.sha256()
    for part in (chunking, title or "", text):
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.hexdigest()[:16]


def _no_document(base: str, document: str) -> NotFound:
    return NotFound(
        f"Knowledge base {base!r} has no document {document[:80]!r}.", code="document_not_found", param="id"
    )


class KnowledgeStoreReplica:
    """The deployment: `KnowledgeStore` behind async methods of the same names. Run exactly one.

    Raises:
        Overloaded: too many calls are waiting; nothing ran.
    """

    def __init__(self, config: KnowledgeStoreModel, clock: Callable[[], float] = time.time) -> None:
        wait_for_predecessor(Path(config.path))
        self._store = KnowledgeStore(
            Path(config.path), max_chunks=config.max_chunks, max_bytes=config.max_bytes, clock=clock
        )
        self._thread = StoreThread("knowledge store", config.batching.max_queue)

    async def put(self, document: Document, text: str, chunks: Sequence[Chunk]) -> Document:
        """See `KnowledgeStore.put`; likewise below."""
        return await self._thread.run(lambda: self._store.put(document, text, chunks))

    async def get(self, base: str, document: str) -> tuple[Document, str]:
        """A document and its text."""
        return await self._thread.run(lambda: self._store.get(base, document))

    async def delete(self, base: str, document: str) -> None:
        """A document."""
        await self._thread.run(lambda: self._store.delete(base, document))

    async def drop(self, base: str) -> int:
        """All documents of a base."""
        return await self._thread.run(lambda: self._store.drop(base))

    async def documents(self, base: str, after: str, limit: int) -> list[Document]:
        """By id."""
        return await self._thread.run(lambda: self._store.documents(base, after, limit))

    async def bases(self) -> list[Base]:
        """By name."""
        return await self._thread.run(self._store.bases)

    async def base(self, name: str) -> Base:
        """One base."""
        return await self._thread.run(lambda: self._store.base(name))

    async def search(self, base: str, query: str, limit: int) -> list[Match]:
        """By words, best first."""
        return await self._thread.run(lambda: self._store.search(base, query, limit))

    async def chunks(self, base: str, ids: Sequence[str]) -> list[Chunk]:
        """By id."""
        return await self._thread.run(lambda: self._store.chunks(base, ids))

    async def stats(self) -> StoreStats:
        """How full the store is."""
        return await self._thread.run(self._store.stats)

    async def check_health(self) -> None:
        """Called by Ray Serve.

        Raises:
            Unavailable: the folder or the database is broken; Ray Serve then replaces the replica.
        """
        await self._thread.probe(self._store.check)

    async def close(self) -> None:
        """Lets accepted calls finish and frees the folder."""
        await asyncio.to_thread(self._thread.close)
        self._store.close()
