"""What stores on one SQLite database have in common: a folder held by one process, one connection, transactions.

WAL with `synchronous=FULL`: a transaction that committed survives the process and the machine.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from deployments.folder_lock import FolderLock
from deployments.sqlite_file import connect, sqlite_errors
from serve.errors import OutOfCapacity, Unavailable

FILE_NAME: Final = "store.db"
_NO_UPGRADES: Final[Mapping[int, str]] = {}


class Database:
    """A database in a folder of its own. Threads take turns; every method blocks.

    Args:
        root: the folder; made when absent.
        schema: SQL that makes the tables of an empty database and sets its `user_version`.
        version: the `user_version` that this build reads.
        upgrades: SQL that takes the tables of an earlier build one version on, by the version that it starts from.
        max_bytes: beyond which the file does not grow. The write-ahead log beside it takes up to 64 MiB more.
        store: what it holds, for messages.

    Raises:
        Conflict: `store_locked`; another process, or this one, has the folder open.
        Unavailable: `store_io`, `store_format`.
    """

    def __init__(
        self,
        root: Path,
        schema: str,
        version: int,
        *,
        max_bytes: int,
        store: str,
        upgrades: Mapping[int, str] = _NO_UPGRADES,
    ) -> None:
        self._store = store
        self._max_bytes = max_bytes
        self._turn = threading.RLock()
        root.mkdir(parents=True, exist_ok=True)
        self._folder = FolderLock(root)
        self._connection: sqlite3.Connection | None = None
        try:
            with sqlite_errors(store):
                self._connection = connect(root / FILE_NAME, foreign_keys=True, max_bytes=max_bytes)
                self._connection.execute("PRAGMA journal_mode = WAL")
                self._prepare(self._connection, schema, version, upgrades, root)
        except BaseException:
            self.close()
            raise

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection, for queries that belong together."""
        with self._turn, sqlite_errors(self._store):
            connection = self._open()
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                _roll_back(connection)

    @contextmanager
    def changing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: durable when the body ends, undone when it raises.

        Raises:
            OutOfCapacity: it does not fit into `max_bytes`, or onto the disk.
        """
        with self._turn:
            try:
                with sqlite_errors(self._store):
                    connection = self._open()
                    connection.execute("BEGIN IMMEDIATE")
                    try:
                        yield connection
                        connection.execute("COMMIT")
                    finally:
                        _roll_back(connection)
            except OutOfCapacity as error:
                if error.code != "disk_full":
                    raise
                raise OutOfCapacity(
                    f"The {self._store} would need more than its {self._max_bytes} bytes, or its disk is full."
                ) from error

    def check(self) -> None:
        """Sees that the folder is there and that the database answers.

        Raises:
            Unavailable: it does not.
        """
        self._folder.check()
        with self.reading() as connection:
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()

    def close(self) -> None:
        """Waits for its turn and frees the folder. May be called again."""
        with self._turn:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            self._folder.release()

    def _prepare(
        self, connection: sqlite3.Connection, schema: str, version: int, upgrades: Mapping[int, str], root: Path
    ) -> None:
        (found,) = connection.execute("PRAGMA user_version").fetchone()
        if found == 0:
            connection.executescript(f"BEGIN IMMEDIATE; {schema} COMMIT;")
            return
        while found in upgrades:
            step = f"{upgrades[found]} PRAGMA user_version = {found + 1};"
            connection.executescript(f"BEGIN IMMEDIATE; {step} COMMIT;")
            found += 1
        if found != version:
            raise Unavailable(f"{root / FILE_NAME} has format {found}, this build reads {version}", code="store_format")

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            raise Unavailable(f"The {self._store} is closed.", code="store_closed")
        return self._connection


def used_bytes(connection: sqlite3.Connection) -> int:
    """Bytes of the database's pages that hold something."""
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:  # SQLite has done it already after some errors, a full disk among them.
        connection.execute("ROLLBACK")
