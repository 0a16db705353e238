"""The files of the scene store in step with its database.

A file is stored before the transaction that names it, and deleted after the one that forgot it; what a crash leaves in
between is a file that nothing stands on, which the next start deletes. Files that are being stored are pinned, so that
a deletion never takes one that a transaction is about to name.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from deployments.scenes import sql
from deployments.scenes.blobs import Blobs
from deployments.sqlite_store import Database
from serve.errors import ArgusError

_log: Final = logging.getLogger(__name__)


class StoredFiles:
    """See the module's text. Methods block and may be called from any thread."""

    def __init__(self, blobs: Blobs, database: Database) -> None:
        self._blobs = blobs
        self._database = database
        self._turn = threading.Lock()
        self._pinned: Counter[str] = Counter()

    def compare(self, stored: Collection[str]) -> None:
        """Deletes what nothing stands on, and reports what is missing; for the start, before anything else."""
        self.delete_orphans(stored)
        with self._database.reading() as connection:
            missing = sql.digests(connection).difference(stored)
        if missing:
            _log.error("%d files of scenes are missing, %s among them", len(missing), min(missing))

    @contextmanager
    def stored(self, digest: str, path: Path) -> Iterator[None]:
        """Moves a file from `path` into the store, for a transaction within the block to name it."""
        with self.pinned(digest):
            self._blobs.take(path, digest)
            yield

    @contextmanager
    def pinned(self, digest: str) -> Iterator[None]:
        """Within the block the file is not deleted; when the block raises, it is, unless something else needs it."""
        with self._turn:
            self._pinned[digest] += 1
        try:
            yield
        except BaseException:
            self._unpin(digest)
            self.delete_orphans([digest])
            raise
        self._unpin(digest)

    def delete_orphans(self, digests: Iterable[str]) -> None:
        """Deletes those that nothing stands on; one that cannot be deleted now is deleted at the next start."""
        with self._turn:
            with self._database.reading() as connection:
                gone = sql.unknown(connection, [digest for digest in digests if digest not in self._pinned])
            for digest in gone:
                try:
                    self._blobs.delete(digest)
                except ArgusError as error:
                    _log.warning("a file of no scene stays for now: %s", error)

    def _unpin(self, digest: str) -> None:
        with self._turn:
            self._pinned[digest] -= 1
            if not self._pinned[digest]:
                del self._pinned[digest]
