"""Knowledge bases: documents cut into chunks, found by their words and, where a model is named, by their vectors.

The knowledge store is the truth. The vector index beside it may hold chunks that are gone, after a request that was cut
in the middle; a hit there counts only while the store has the chunk, and the document's next change sweeps it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from deployments.knowledge_store import revision_of
from deployments.knowledge_types import Base, Chunk, Document, Match
from serve.chunking import passages
from serve.config.cluster import Limits
from serve.config.models import KnowledgeStoreModel
from serve.config.support import Support
from serve.context import RequestContext
from serve.errors import Conflict, InvalidRequest, NotFound
from serve.handles import ModelHandle
from serve.indexes import IndexService, NewItem
from serve.retrieval import fuse
from serve.stores import StoreClient

# Each ranking is this many times as long as what is wanted of both together.
_DEPTH = 4
# Of the vector index; the rest of the name is the base's.
_INDEX = "kb-"
_BASE = re.compile(r"[a-z0-9][a-z0-9_-]{0,59}")
_DOCUMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class Found:
    """What a query found.

    Attributes:
        chunks: best first.
        coverage: the best match's; see `Match`. 0 without any.
        similarity: of the nearest chunk; None without vectors.
    """

    chunks: tuple[Chunk, ...]
    coverage: float
    similarity: float | None


class KnowledgeService:
    """See the module's text. Every method raises NotFound (`not_configured`) without a `support` section.

    Args:
        index: the cluster's vector indexes.
        handle: the knowledge store; None when there is none, or no `support` section.
        settings: of that store.
        support: the section.
    """

    def __init__(
        self,
        limits: Limits,
        index: IndexService,
        handle: ModelHandle | None,
        settings: KnowledgeStoreModel | None,
        support: Support | None,
    ) -> None:
        self._limits = limits
        self._index = index
        self._store = StoreClient(handle, "knowledge_store", missing="This cluster file has no `support` section.")
        self._settings = settings or KnowledgeStoreModel(kind="knowledge_store")
        self._embedding = support.embedding_model if support is not None else None

    async def put(self, base: str, name: str, text: str, title: str | None, context: RequestContext) -> Document:
        """Adds a document, or replaces the one of its id; findable when this returns.

        Raises:
            InvalidRequest: `invalid_name` (of base or document), `text_too_long`, `empty_text`.
            OutOfCapacity: a store is full.
        """
        _check_name(base, _BASE, "name")
        _check_name(name, _DOCUMENT, "id")
        settings = self._settings
        if len(text) > settings.max_document_chars:
            raise InvalidRequest(
                f"The document has {len(text):,} characters; at most {settings.max_document_chars:,} are accepted.",
                code="text_too_long",
                param="text",
            )
        revision = revision_of(title, text, f"{settings.chunk_chars}/{settings.chunk_overlap}")
        # Off the event loop: long documents take a while.
        cut = await asyncio.to_thread(passages, text, settings.chunk_chars, settings.chunk_overlap)
        if not cut:
            raise InvalidRequest("The document has no text.", code="empty_text", param="text")
        chunks = [
            Chunk(f"{name}/{revision}/{i}", name, title, start, passage) for i, (start, passage) in enumerate(cut)
        ]
        if self._embedding is not None:
            await self._add_vectors(base, chunks, revision, context)
        document = Document(base, name, title, revision, len(text), len(chunks), 0.0)
        stored: Document = await self._store.call("put", context, document, text, chunks)
        await self._sweep(base, name, revision, context)
        return stored

    async def get(self, base: str, name: str, context: RequestContext) -> tuple[Document, str]:
        """A document and its text.

        Raises:
            NotFound: `document_not_found`.
        """
        found: tuple[Document, str] = await self._store.call("get", context, base, name)
        return found

    async def delete(self, base: str, name: str, context: RequestContext) -> None:
        """Deletes a document.

        Raises:
            NotFound: `document_not_found`.
        """
        await self._store.delete(context, base, name)
        await self._sweep(base, name, None, context)

    async def drop(self, base: str, context: RequestContext) -> int:
        """Deletes all documents of a base; their number."""
        dropped: int = await self._store.call("drop", context, base)
        if self._embedding is not None:
            with suppress(NotFound):
                await self._index.drop(_INDEX + base, context)
        return dropped

    async def documents(self, base: str, after: str, limit: int, context: RequestContext) -> list[Document]:
        """Documents of a base by id, those after `after`."""
        found: list[Document] = await self._store.call("documents", context, base, after, limit)
        return found

    async def base(self, name: str, context: RequestContext) -> Base:
        """One base.

        Raises:
            NotFound: `knowledge_not_found`.
        """
        found: Base = await self._store.call("base", context, name)
        return found

    async def bases(self, context: RequestContext) -> list[Base]:
        """Every base, by name."""
        found: list[Base] = await self._store.call("bases", context)
        return found

    async def search(self, base: str, query: str, k: int, context: RequestContext, *, param: str) -> Found:
        """The k best chunks: by words (BM25) and by vectors, fused by reciprocal rank.

        Args:
            param: the request field that holds the query, for error messages.

        Raises:
            NotFound: `knowledge_not_found`.
            InvalidRequest: `empty_text`, `text_too_long`.
        """
        self._check(query, param)
        await self.base(base, context)
        depth = _DEPTH * k
        lexical, (near, similarity) = await asyncio.gather(
            self._by_words(base, query, depth, context), self._by_vector(base, query, depth, context, param)
        )
        known = {match.chunk.id: match.chunk for match in lexical}
        unknown = [chunk_id for chunk_id in near if chunk_id not in known]
        if unknown:
            more: list[Chunk] = await self._store.call("chunks", context, base, unknown)
            known |= {chunk.id: chunk for chunk in more}
        ranked = fuse([[match.chunk.id for match in lexical], [chunk_id for chunk_id in near if chunk_id in known]])
        coverage = max((match.coverage for match in lexical), default=0.0)
        return Found(tuple(known[chunk_id] for chunk_id in ranked[:k]), coverage, similarity)

    async def _by_words(self, base: str, query: str, depth: int, context: RequestContext) -> list[Match]:
        found: list[Match] = await self._store.call("search", context, base, query, depth)
        return found

    async def _by_vector(
        self, base: str, query: str, depth: int, context: RequestContext, param: str
    ) -> tuple[list[str], float | None]:
        """Ids of the nearest chunks, and the best one's cosine."""
        if self._embedding is None:
            return [], None
        try:
            hits = await self._index.search(_INDEX + base, query, depth, context, param=param)
        except (NotFound, Conflict) as error:
            # Its documents were stored before a model was named, or by another checkpoint of it: words still find them.
            if error.code not in ("index_not_found", "index_of_another_checkpoint"):
                raise
            return [], None
        return [hit.id for hit in hits], hits[0].score if hits else None

    async def _add_vectors(self, base: str, chunks: Sequence[Chunk], revision: str, context: RequestContext) -> None:
        index = _INDEX + base
        await self._index.create({"name": index, "model": self._embedding}, context)
        step = self._limits.max_inputs
        for first in range(0, len(chunks), step):
            items = [
                NewItem(chunk.id, self._embedded(chunk), {"document": chunk.document, "revision": revision}, "text")
                for chunk in chunks[first : first + step]
            ]
            await self._index.add(index, items, context)

    def _embedded(self, chunk: Chunk) -> str:
        """The text whose vector finds a chunk: its title first, as far as the bound on texts leaves room."""
        title = (chunk.title or "")[: max(0, self._limits.max_text_chars - len(chunk.text) - 1)]
        return f"{title}\n{chunk.text}" if title else chunk.text

    async def _sweep(self, base: str, name: str, revision: str | None, context: RequestContext) -> None:
        """Deletes the vectors of a document, but those of `revision`."""
        if self._embedding is None:
            return
        condition = {"document": name}
        kept = {} if revision is None else {"$not": {"revision": revision}}
        with suppress(NotFound):
            await self._index.delete(_INDEX + base, context, ids=None, filter={**condition, **kept})

    def _check(self, query: str, param: str) -> None:
        if not query.strip():
            raise InvalidRequest("The text is empty.", code="empty_text", param=param)
        if len(query) > self._limits.max_text_chars:
            raise InvalidRequest(
                f"The text has {len(query):,} characters; at most {self._limits.max_text_chars:,} are accepted.",
                code="text_too_long",
                param=param,
            )


def _check_name(name: str, pattern: re.Pattern[str], param: str) -> None:
    if not pattern.fullmatch(name):
        raise InvalidRequest(
            f"{param} is {name[:80]!r}; it must match {pattern.pattern}.", code="invalid_name", param=param
        )
