"""The durable half of an index: one SQLite database with its items.

Journal in WAL mode with `synchronous=FULL`: a transaction that committed survives the process and the machine.
Besides each item's metadata as JSON there is one row per scalar and list element in `fields`, typed and ordered by
(field, kind, value), so a filter is a few index lookups and compares 64-bit integers, doubles and text exactly, which
SQLite's JSON functions do not promise.
"""

from __future__ import annotations

import functools
import json
import queue
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from deployments.sqlite_file import connect, sqlite_errors
from deployments.vector_checks import decode_metadata
from deployments.vector_filter import And, Exists, Filter, In, Not, Or, Range
from deployments.vector_types import Float32s, IndexSpec, Int64s, Metadata, Scalar
from serve.errors import Unavailable

FILE_NAME: Final = "items.db"
FORMAT: Final = 2
# Format 1 has no checkpoint in its spec.
_READ: Final = (1, FORMAT)

_SCHEMA: Final = f"""
PRAGMA journal_mode = WAL;
PRAGMA user_version = {FORMAT};
CREATE TABLE spec (json TEXT NOT NULL);
CREATE TABLE items (
    row_id INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    metadata TEXT NOT NULL,
    vector BLOB NOT NULL  -- last, so that reading the other columns does not touch a long vector's overflow pages
);
CREATE TABLE fields (
    field TEXT NOT NULL,
    kind TEXT NOT NULL,
    value NOT NULL,  -- no declared type: SQLite then stores what it is given
    row_id INTEGER NOT NULL,
    PRIMARY KEY (field, kind, value, row_id)
) WITHOUT ROWID;
"""
_RANGE_SQL: Final = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}

FieldRow = tuple[str, str, str | int | float]


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One validated item in the form that is written.

    Attributes:
        id: the item's id.
        metadata: compact JSON.
        fields: (field, kind, value) for each scalar and list element of the metadata.
        vector: (dimension,) float32 as given.
    """

    id: str
    metadata: str
    fields: tuple[FieldRow, ...]
    vector: Float32s


@dataclass(frozen=True, slots=True, eq=False)
class StoredRow:
    """One item as read back; `vector` is (dimension,) float32, or None when it was not asked for."""

    id: str
    metadata: Metadata
    vector: Float32s | None


def fields_of(metadata: Metadata) -> tuple[FieldRow, ...]:
    """The rows of `fields` that stand for `metadata`."""
    rows: list[FieldRow] = []
    for name, value in metadata.items():
        if value == []:
            rows.append((name, "empty", 0))  # Keeps the field visible to `exists`.
        rows.extend((name, *_typed(element)) for element in (value if isinstance(value, list) else (value,)))
    return tuple(rows)


class ItemTable:
    """The items of one index on disk.

    One connection writes, and the caller lets one thread at a time use it; any number of threads read, each on a
    connection of its own for as long as it reads. Every method raises Unavailable (`store_io`) when SQLite fails, and
    OutOfCapacity (`disk_full`) when the disk is full.

    Args:
        folder: the index's folder, made by `create`.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE_NAME
        self._idle: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()
        with sqlite_errors("index"):
            self._writer = connect(self._path)
            (version,) = self._writer.execute("PRAGMA user_version").fetchone()
            if version not in _READ:
                raise Unavailable(f"{self._path} has format {version}, this build reads {FORMAT}", code="store_format")
            self.spec = IndexSpec(**json.loads(self._writer.execute("SELECT json FROM spec").fetchone()[0]))

    @staticmethod
    def create(folder: Path, spec: IndexSpec) -> None:
        """Writes an empty database into `folder`, complete on disk when this returns."""
        with sqlite_errors("index"):
            connection = connect(folder / FILE_NAME)
            connection.executescript(_SCHEMA)
            connection.execute("INSERT INTO spec VALUES (?)", (json.dumps(asdict(spec)),))
            connection.close()  # Moves the WAL into the database and syncs it.

    def close(self) -> None:
        """Closes every connection. No read and no transaction may be under way."""
        while not self._idle.empty():
            self._idle.get_nowait().close()
        self._writer.close()

    @contextmanager
    def reading(self) -> Iterator[Reader]:
        """A view of the committed items."""
        with sqlite_errors("index"):
            try:
                connection = self._idle.get_nowait()
            except queue.Empty:
                connection = connect(self._path)
                connection.execute("PRAGMA query_only = ON")
            try:
                yield Reader(connection, self.spec.dimension)
            finally:
                self._idle.put(connection)

    @contextmanager
    def writing(self) -> Iterator[Writer]:
        """One transaction. It is rolled back unless the body calls `Writer.commit`."""
        with sqlite_errors("index"):
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield Writer(self._writer, self.spec.dimension)
            finally:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")


class Reader:
    """Queries on one connection."""

    def __init__(self, connection: sqlite3.Connection, dimension: int) -> None:
        self._connection = connection
        self._dimension = dimension

    def count(self) -> int:
        """Number of items."""
        (count,) = self._connection.execute("SELECT count(*) FROM items").fetchone()
        return int(count)

    def rows(self) -> Int64s:
        """Every item's row id: (n,) int64, ascending."""
        return _row_ids(self._connection.execute("SELECT row_id FROM items ORDER BY row_id"))

    def first_row(self) -> Int64s:
        """The lowest row id: (1,) int64, or (0,) when there are no items."""
        return _row_ids(self._connection.execute("SELECT row_id FROM items ORDER BY row_id LIMIT 1"))

    def rows_of(self, ids: Sequence[str]) -> Int64s:
        """Row ids of the items among `ids` that exist: (m,) int64, ascending."""
        return _row_ids(
            self._connection.execute(
                "SELECT row_id FROM items WHERE id IN (SELECT value FROM json_each(?)) ORDER BY row_id",
                (_json_list(ids),),
            )
        )

    def match(self, condition: Filter) -> Int64s:
        """Row ids of the items that meet `condition`: (m,) int64, ascending."""
        return self._match(condition, functools.cache(self.rows))

    def vectors(self, rows: Int64s) -> Float32s:
        """The vectors of existing rows: (n, dimension) float32, in the order of `rows`, which must ascend."""
        cursor = self._connection.execute(
            "SELECT vector FROM items WHERE row_id IN (SELECT value FROM json_each(?)) ORDER BY row_id",
            (_json_list(rows.tolist()),),
        )
        matrix = np.frombuffer(b"".join(blob for (blob,) in cursor), dtype="<f4").reshape(-1, self._dimension)
        if len(matrix) != len(rows):
            raise Unavailable(f"{len(rows)} vectors expected, {len(matrix)} found", code="store_io")
        return matrix.astype(np.float32, copy=False)

    def fetch(self, rows: Int64s, *, vectors: bool) -> dict[int, StoredRow]:
        """The items of `rows` by row id; rows that do not exist are left out."""
        columns = "row_id, id, metadata, vector" if vectors else "row_id, id, metadata, NULL"
        cursor = self._connection.execute(
            f"SELECT {columns} FROM items WHERE row_id IN (SELECT value FROM json_each(?))",
            (_json_list(rows.tolist()),),
        )
        return {
            row_id: StoredRow(name, decode_metadata(text), None if blob is None else np.frombuffer(blob, dtype="<f4"))
            for row_id, name, text, blob in cursor
        }

    def _match(self, condition: Filter, everything: Callable[[], Int64s]) -> Int64s:
        match condition:
            case And(parts):
                return functools.reduce(_intersect, (self._match(part, everything) for part in parts))
            case Or(parts):
                return functools.reduce(np.union1d, (self._match(part, everything) for part in parts))
            case Not(part):
                return np.setdiff1d(everything(), self._match(part, everything), assume_unique=True)
            case Exists(field):
                sql, values = "field = ?", [field]
            case In() | Range():
                sql, values = _leaf(condition)
        return np.unique(_row_ids(self._connection.execute(f"SELECT row_id FROM fields WHERE {sql}", values)))


class Writer(Reader):
    """Changes within one transaction; its queries see them."""

    def remove(self, rows: Int64s) -> None:
        """Deletes existing rows."""
        for row_id in rows.tolist():
            (text,) = self._connection.execute("SELECT metadata FROM items WHERE row_id = ?", (row_id,)).fetchone()
            # The rows of `fields` follow from the metadata, which saves them a second index by row.
            self._connection.executemany(
                "DELETE FROM fields WHERE field = ? AND kind = ? AND value = ? AND row_id = ?",
                ((*entry, row_id) for entry in fields_of(decode_metadata(text))),
            )
            self._connection.execute("DELETE FROM items WHERE row_id = ?", (row_id,))

    def insert(self, records: Iterable[Record], first_row: int) -> None:
        """Adds records, whose ids must be absent, as rows `first_row`, `first_row` + 1, ..."""
        numbered = list(enumerate(records, first_row))
        self._connection.executemany(
            "INSERT INTO items (row_id, id, metadata, vector) VALUES (?, ?, ?, ?)",
            ((row_id, r.id, r.metadata, r.vector.astype("<f4", copy=False).tobytes()) for row_id, r in numbered),
        )
        self._connection.executemany(  # A list may hold a value twice; once is enough to find it.
            "INSERT OR IGNORE INTO fields (field, kind, value, row_id) VALUES (?, ?, ?, ?)",
            ((*entry, row_id) for row_id, r in numbered for entry in r.fields),
        )

    def commit(self) -> None:
        """Makes the transaction durable: it is on disk when this returns."""
        self._connection.execute("COMMIT")


def _leaf(condition: In | Range) -> tuple[str, list[Any]]:
    """`condition` as an SQL expression over `fields`, and its parameters."""
    if isinstance(condition, Range):
        kind, bound = _typed(condition.bound)
        return f"field = ? AND kind = ? AND value {_RANGE_SQL[condition.op]} ?", [condition.field, kind, bound]
    by_kind: dict[str, list[Any]] = {}
    for kind, value in map(_typed, condition.values):
        by_kind.setdefault(kind, []).append(value)
    # One term a kind: SQLite would not use the index for `(kind, value) IN (...)`.
    terms = [f"(field = ? AND kind = ? AND value IN ({', '.join('?' * len(values))}))" for values in by_kind.values()]
    return " OR ".join(terms), [v for kind, values in by_kind.items() for v in (condition.field, kind, *values)]


def _intersect(left: Int64s, right: Int64s) -> Int64s:
    return np.intersect1d(left, right, assume_unique=True)


def _typed(value: Scalar) -> tuple[str, str | int | float]:
    """Kind and value of a scalar. The kind keeps `true`, `1` and `"1"` apart, which SQLite would not."""
    if value is None:
        return "null", 0
    if isinstance(value, bool):
        return "bool", int(value)
    return ("text" if isinstance(value, str) else "number"), value


def _row_ids(cursor: sqlite3.Cursor) -> Int64s:
    return np.fromiter((row_id for (row_id,) in cursor), dtype=np.int64)


def _json_list(values: Sequence[Any]) -> str:
    # One parameter instead of one per value: SQLite bounds the number of parameters.
    return json.dumps(values, ensure_ascii=False)
