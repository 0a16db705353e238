"""SQLite as the stores use it: what has been committed survives the process and the machine."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serve.errors import OutOfCapacity, Unavailable


def connect(path: Path, *, foreign_keys: bool = False, max_bytes: int | None = None) -> sqlite3.Connection:
    """A connection whose commits are on disk when they return. The journal mode is the database's own (WAL).

    Transactions are the caller's to begin, and threads that share a connection take turns.

    Args:
        max_bytes: beyond which the database does not grow: what would need more fails with SQLITE_FULL.
    """
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA journal_size_limit = {64 * 2**20}")
    connection.execute(f"PRAGMA foreign_keys = {int(foreign_keys)}")
    if max_bytes is not None:
        (page_size,) = connection.execute("PRAGMA page_size").fetchone()
        connection.execute(f"PRAGMA max_page_count = {max(1, max_bytes // page_size)}")
    return connection


@contextmanager
def sqlite_errors(store: str) -> Iterator[None]:
    """What SQLite raises, as ours.

    Args:
        store: what the database holds, for messages.

    Raises:
        OutOfCapacity: `disk_full`.
        Unavailable: `store_io`.
    """
    try:
        yield
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            raise OutOfCapacity(f"the disk that holds the {store} is full", code="disk_full") from error
        raise Unavailable(f"the {store}'s database failed: {error}", code="store_io") from error
