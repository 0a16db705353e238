"""One index: its items on disk and its vectors in memory, kept in step.

A change prepares both sides first (an open transaction, hidden vectors), then commits and shows them under the
exclusive lock. A search holds the shared lock from the filter's SQL to the last row it reads, so it sees either all of
a change or nothing of it, on both sides. The exclusive lock is held only for a commit and for short runs of additions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np

from deployments.vector_faiss import MemoryIndex, base_bytes, row_bytes
from deployments.vector_filter import Filter
from deployments.vector_lock import ReadWriteLock
from deployments.vector_sql import ItemTable, Reader, Record, StoredRow
from deployments.vector_types import Float32s, Hit, IndexInfo, IndexSpec, Int64s, Item
from serve.errors import NotFound, Unavailable

# FAISS cannot search while vectors are added. HNSW links a few thousand a second, so this many keep searches waiting
# for some tens of milliseconds; they run between one group and the next.
APPEND_ROWS: Final = 64

_NONE: Final = np.empty(0, dtype=np.int64)


class Collection:
    """An open index. Many threads may read; the caller lets one thread at a time change it.

    Every method raises NotFound once the index is closed (it was dropped), and Unavailable (`index_damaged`) after
    FAISS has failed half-way through a change; opening the index again repairs that from disk.

    Args:
        folder: the index's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._table = ItemTable(folder)
        self._lock = ReadWriteLock()
        self._closed = False
        self._damaged = False
        self._memory, rows = self._load()
        # Counts on, past rolled-back changes too, so that a row id never names two vectors in memory.
        self._next_row = int(rows[-1]) + 1 if len(rows) else 1

    @staticmethod
    def create(folder: Path, spec: IndexSpec) -> None:
        """Writes an empty index into the existing `folder`, complete on disk when this returns."""
        ItemTable.create(folder, spec)

    @staticmethod
    def stored_bytes(folder: Path) -> int:
        """Memory that the index in `folder` needs when it is opened."""
        table = ItemTable(folder)
        try:
            with table.reading() as reader:
                return base_bytes(table.spec) + reader.count() * row_bytes(table.spec)
        finally:
            table.close()

    @property
    def spec(self) -> IndexSpec:
        """How the index was created."""
        return self._table.spec

    @property
    def nbytes(self) -> int:
        """Memory that counts against the store's bound."""
        return self._memory.nbytes

    @property
    def rebuilt_bytes(self) -> int:
        """What `nbytes` would be after a rebuild."""
        return base_bytes(self.spec) + self._memory.live * row_bytes(self.spec)

    @property
    def needs_rebuild(self) -> bool:
        """See `MemoryIndex.needs_rebuild`."""
        return self._memory.needs_rebuild

    @property
    def has_dead(self) -> bool:
        """Whether a rebuild would free memory."""
        return self._memory.has_dead

    def info(self) -> IndexInfo:
        """The index as it stands."""
        return IndexInfo(self.spec, self._memory.live, self._memory.nbytes)

    def put(self, records: Sequence[Record]) -> None:
        """Adds or replaces items in one transaction; of two records with one id the later counts."""
        self._usable()
        latest = list({record.id: record for record in records}.values())
        if not latest:
            return
        new = np.arange(self._next_row, self._next_row + len(latest), dtype=np.int64)
        with self._table.writing() as transaction:
            gone = transaction.rows_of([record.id for record in latest])
            transaction.remove(gone)
            transaction.insert(latest, self._next_row)
            self._next_row += len(latest)
            self._append_hidden(new, np.stack([record.vector for record in latest]))
            with self._lock.exclusive():
                transaction.commit()
                self._memory.publish(new, gone)

    def delete(self, wanted: Sequence[str] | Filter) -> int:
        """Deletes items by id or by filter in one transaction; the number that existed."""
        self._usable()
        with self._table.writing() as transaction:
            gone = transaction.rows_of(wanted) if isinstance(wanted, Sequence) else transaction.match(wanted)
            transaction.remove(gone)
            with self._lock.exclusive():
                transaction.commit()
                self._memory.publish(_NONE, gone)
        return len(gone)

    def get(self, ids: Sequence[str]) -> list[Item]:
        """The items among `ids` that exist, in the order asked for."""
        with self._reading() as reader:
            stored = {row.id: row for row in reader.fetch(reader.rows_of(ids), vectors=True).values()}
        return [_item(stored[name]) for name in ids if name in stored]

    def search(self, queries: Float32s, k: int, condition: Filter | None, *, include_vectors: bool) -> list[list[Hit]]:
        """The best `k` items for each of (q, dimension) float32 queries, best first."""
        with self._reading() as reader:
            eligible = None if condition is None else reader.match(condition)
            scores, rows = self._memory.search(queries, k, eligible)
            stored = reader.fetch(np.unique(rows), vectors=include_vectors)
        return [
            [_hit(stored[row], score) for row, score in zip(some_rows, some_scores, strict=True) if row >= 0]
            for some_rows, some_scores in zip(rows.tolist(), scores.tolist(), strict=True)
        ]

    def rebuild(self, *, aside: bool) -> None:
        """Makes the in-memory index anew from disk: without deleted vectors, and trained on what is there.

        Args:
            aside: build beside the old index, which answers searches meanwhile; needs memory for both. Otherwise the
                old one is given up first and searches wait.
        """
        self._usable()
        if aside:
            fresh, _ = self._load()
            with self._lock.exclusive():
                self._memory = fresh
            return
        with self._lock.exclusive(), self._damaging():
            self._memory = MemoryIndex(self.spec, _NONE, lambda _: np.empty((0, self.spec.dimension), np.float32))
            self._memory, _ = self._load()

    def check(self) -> None:
        """Reads one item from disk and finds it in memory.

        Raises:
            Unavailable: disk or memory failed, or they disagree.
        """
        with self._reading() as reader:
            row = reader.first_row()
            _, found = self._memory.search(reader.vectors(row), 1, None)
            if np.count_nonzero(found >= 0) != len(row):
                raise Unavailable(f"index {self.spec.name!r} does not find what it stores", code="index_damaged")

    def close(self) -> None:
        """Waits for reads under way and closes the files. May be called again."""
        with self._lock.exclusive():
            if not self._closed:
                self._closed = True
                self._table.close()

    def _load(self) -> tuple[MemoryIndex, Int64s]:
        with self._table.reading() as reader:
            rows = reader.rows()
            return MemoryIndex(self.spec, rows, reader.vectors), rows

    def _append_hidden(self, rows: Int64s, vectors: Float32s) -> None:
        for start in range(0, len(rows), APPEND_ROWS):
            part = slice(start, start + APPEND_ROWS)
            with self._lock.exclusive(), self._damaging():
                self._memory.append(rows[part], vectors[part])

    @contextmanager
    def _damaging(self) -> Iterator[None]:
        """Marks the index damaged if the body fails: FAISS promises nothing about an index that raised."""
        try:
            yield
        except BaseException:
            self._damaged = True
            raise

    @contextmanager
    def _reading(self) -> Iterator[Reader]:
        with self._lock.shared():
            self._usable()
            with self._table.reading() as reader:
                yield reader

    def _usable(self) -> None:
        if self._closed:
            raise NotFound(f"index {self.spec.name!r} was dropped", code="index_not_found", param="index")
        if self._damaged:
            raise Unavailable(f"index {self.spec.name!r} must be opened again", code="index_damaged")


def _item(row: StoredRow) -> Item:
    assert row.vector is not None
    return Item(row.id, row.vector, row.metadata)


def _hit(row: StoredRow, score: float) -> Hit:
    return Hit(row.id, score, row.metadata, row.vector)
