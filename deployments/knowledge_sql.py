"""The tables of the knowledge store: documents, their chunks, and an index of the words of titles and chunks.

Full-text search is SQLite's FTS5 (https://www.sqlite.org/fts5.html): BM25 (Robertson and Zaragoza 2009) with k1 1.2 and
b 0.75, over words without case and diacritics, English endings taken off (Porter 1980). Frequencies are those of all
knowledge bases together.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Sequence
from typing import Final

from deployments.function_words import subject_words, words_of
from deployments.knowledge_types import Base, Chunk, Document, Match

FORMAT: Final = 2
# A title is kept with each chunk: the index must be told what it forgets, and when a document goes, its own row is gone
# before those of its chunks are.
_WORDS: Final = """
CREATE VIRTUAL TABLE words USING fts5(
    title, text, content = 'chunks', content_rowid = 'number', tokenize = 'porter unicode61 remove_diacritics 2'
);
CREATE TRIGGER chunk_added AFTER INSERT ON chunks
BEGIN INSERT INTO words (rowid, title, text) VALUES (NEW.number, NEW.title, NEW.text); END;
CREATE TRIGGER chunk_removed AFTER DELETE ON chunks
BEGIN INSERT INTO words (words, rowid, title, text) VALUES ('delete', OLD.number, OLD.title, OLD.text); END;
"""
SCHEMA: Final = f"""
PRAGMA user_version = {FORMAT};
CREATE TABLE documents (
    base TEXT NOT NULL,
    id TEXT NOT NULL,
    title TEXT,
    revision TEXT NOT NULL,
    created_at REAL NOT NULL,
    text TEXT NOT NULL,
    PRIMARY KEY (base, id)
);
CREATE TABLE chunks (
    number INTEGER PRIMARY KEY,
    base TEXT NOT NULL,
    document TEXT NOT NULL,
    id TEXT NOT NULL,
    start INTEGER NOT NULL,
    title TEXT,
    text TEXT NOT NULL,
    UNIQUE (base, id),
    FOREIGN KEY (base, document) REFERENCES documents ON DELETE CASCADE
);
CREATE INDEX chunks_by_document ON chunks (base, document);
{_WORDS}
"""
UPGRADES: Final = {
    # The words of texts alone were found, not those of titles.
    1: f"""
    DROP TRIGGER chunk_added; DROP TRIGGER chunk_removed; DROP TABLE words;
    ALTER TABLE chunks ADD COLUMN title TEXT;
    UPDATE chunks SET title = (SELECT d.title FROM documents AS d WHERE d.base = chunks.base AND d.id = document);
    {_WORDS}
    INSERT INTO words (words) VALUES ('rebuild');
    """,
}
# More words of a query are not looked at: the first ones say what it is about.
MOST_WORDS: Final = 32
_DOCUMENT: Final = """
SELECT d.base, d.id, d.title, d.revision, length(d.text), count(c.number), d.created_at
FROM documents AS d LEFT JOIN chunks AS c ON c.base = d.base AND c.document = d.id
"""
_CHUNK: Final = "c.id, c.document, c.title, c.start, c.text"


def put(connection: sqlite3.Connection, document: Document, text: str, chunks: Sequence[Chunk]) -> None:
    """Adds a document, or replaces the one of its id."""
    delete(connection, document.base, document.id)
    connection.execute(
        "INSERT INTO documents (base, id, title, revision, created_at, text) VALUES (?, ?, ?, ?, ?, ?)",
        (document.base, document.id, document.title, document.revision, document.created_at, text),
    )
    connection.executemany(
        "INSERT INTO chunks (base, document, id, start, title, text) VALUES (?, ?, ?, ?, ?, ?)",
        ((document.base, document.id, chunk.id, chunk.start, document.title, chunk.text) for chunk in chunks),
    )


def delete(connection: sqlite3.Connection, base: str, document: str | None) -> int:
    """Deletes a document, or all of a base; the number deleted."""
    if document is None:
        return connection.execute("DELETE FROM documents WHERE base = ?", (base,)).rowcount
    return connection.execute("DELETE FROM documents WHERE base = ? AND id = ?", (base, document)).rowcount


def document(connection: sqlite3.Connection, base: str, name: str) -> Document | None:
    """One document; None when there is none of that id."""
    row = connection.execute(
        f"{_DOCUMENT} WHERE d.base = ? AND d.id = ? GROUP BY d.base, d.id", (base, name)
    ).fetchone()
    return None if row is None else Document(*row)


def text(connection: sqlite3.Connection, base: str, name: str) -> str:
    """The text of a document that exists."""
    (found,) = connection.execute("SELECT text FROM documents WHERE base = ? AND id = ?", (base, name)).fetchone()
    return str(found)


def documents(connection: sqlite3.Connection, base: str, after: str, limit: int) -> list[Document]:
    """Documents of a base by id, those after `after`."""
    rows = connection.execute(
        f"{_DOCUMENT} WHERE d.base = ? AND d.id > ? GROUP BY d.base, d.id ORDER BY d.id LIMIT ?", (base, after, limit)
    )
    return [Document(*row) for row in rows]


def bases(connection: sqlite3.Connection, name: str | None = None) -> list[Base]:
    """Every base that holds a document, or the one named."""
    rows = connection.execute(
        "SELECT d.base, count(DISTINCT d.id), count(c.number) "
        "FROM documents AS d LEFT JOIN chunks AS c ON c.base = d.base AND c.document = d.id "
        "WHERE ? IS NULL OR d.base = ? GROUP BY d.base ORDER BY d.base",
        (name, name),
    )
    return [Base(*row) for row in rows]


def count(connection: sqlite3.Connection) -> int:
    """Chunks of all bases."""
    return int(connection.execute("SELECT count(*) FROM chunks").fetchone()[0])


def chunks(connection: sqlite3.Connection, base: str, ids: Sequence[str]) -> list[Chunk]:
    """The chunks among `ids` that exist, in that order."""
    marks = ", ".join("?" * len(ids))
    rows = connection.execute(
        f"SELECT {_CHUNK} FROM chunks AS c WHERE c.base = ? AND c.id IN ({marks})",
        (base, *ids),
    )
    found = {chunk.id: chunk for chunk in (Chunk(*row) for row in rows)}
    return [found[chunk_id] for chunk_id in ids if chunk_id in found]


def search(connection: sqlite3.Connection, base: str, query: str, limit: int) -> list[Match]:
    """The chunks of a base that hold a word of the query, or whose title does, best first.

    Function words (deployments/function_words.py) find nothing beside others. A query of nothing else is looked up as
    it is ("the who"), and its matches cover nothing of a subject that it does not have.
    """
    subject = _distinct(subject_words(query))
    words = subject or _distinct(words_of(query))
    if not words:
        return []
    rows = connection.execute(
        f"""
        SELECT c.number, -bm25(words), {_CHUNK}
        FROM words JOIN chunks AS c ON c.number = words.rowid
        WHERE words MATCH ? AND c.base = ? ORDER BY bm25(words), c.number LIMIT ?
        """,
        (" OR ".join(map(_quoted, words)), base, limit),
    ).fetchall()
    covered = _coverage(connection, subject, [row[0] for row in rows])
    return [Match(Chunk(*row[2:]), row[1], covered[row[0]]) for row in rows]


def _coverage(connection: sqlite3.Connection, words: Sequence[str], numbers: Sequence[int]) -> dict[int, float]:
    """See `Match.coverage`.

    A word that no text holds weighs as much as one that a single text holds: what it asks about is not here, or is said
    here in another word. Titles do not make a word frequent: one title stands at every chunk of its document.
    """
    total = count(connection)
    marks = ", ".join("?" * len(numbers))
    held = dict.fromkeys(numbers, 0.0)
    weights = 0.0
    for word in map(_quoted, words):
        (holders,) = connection.execute(
            "SELECT count(*) FROM words WHERE words MATCH ?", (f"text : {word}",)
        ).fetchone()
        # The inverse document frequency of BM25, in the form that is never negative (Lucene's).
        counted = max(holders, 1)
        weight = math.log(1 + (total - counted + 0.5) / (counted + 0.5))
        weights += weight
        for (number,) in connection.execute(
            f"SELECT rowid FROM words WHERE words MATCH ? AND rowid IN ({marks})", (word, *numbers)
        ):
            held[number] += weight
    return {number: value / weights if words else 0.0 for number, value in held.items()}


def _distinct(words: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(words))[:MOST_WORDS]


def _quoted(word: str) -> str:
    """A word as an FTS5 string, so that none is taken for an operator."""
    return f'"{word}"'
