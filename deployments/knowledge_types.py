"""What travels to and from the knowledge store."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Chunk:
    """A passage of a document.

    Attributes:
        id: unique in the store, and other for another text: `DOCUMENT/REVISION/NUMBER`.
        start: position of its first character in the document.
    """

    id: str
    document: str
    title: str | None
    start: int
    text: str


@dataclass(frozen=True, slots=True)
class Match:
    """A chunk found by the words of its title and text.

    Attributes:
        score: BM25, higher is better; comparable within one search only.
        coverage: how much of what distinguishes the query the chunk holds, in [0, 1]: the summed inverse document
            frequencies of the query's words in it, over those of all the query's words; function words do not count.
    """

    chunk: Chunk
    score: float
    coverage: float


@dataclass(frozen=True, slots=True)
class Document:
    """A document as it is stored.

    Attributes:
        revision: digest of title, text and chunking; equal for equal content.
        created_at: when this revision was stored, in Unix seconds.
    """

    base: str
    id: str
    title: str | None
    revision: str
    characters: int
    chunks: int
    created_at: float


@dataclass(frozen=True, slots=True)
class Base:
    """A knowledge base."""

    name: str
    documents: int
    chunks: int
