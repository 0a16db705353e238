"""The lock of one index: many searches, or one change."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class ReadWriteLock:
    """Shared by readers, or exclusive to one writer; neither side can starve the other.

    A waiting writer holds back new readers, and a writer that leaves first lets in the readers that waited for it.
    Without the second half, a writer that takes the lock for many short steps would shut readers out between them.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._readers = 0
        self._readers_waiting = 0
        self._readers_due = 0  # Waiting readers that go before the next writer.
        self._writers_waiting = 0
        self._writing = False

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Many threads at a time; not reentrant."""
        with self._changed:
            self._readers_waiting += 1
            self._changed.wait_for(self._reader_may_enter)
            self._readers_waiting -= 1
            self._readers_due = max(0, self._readers_due - 1)
            self._readers += 1
        try:
            yield
        finally:
            with self._changed:
                self._readers -= 1
                self._changed.notify_all()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """One thread, and no reader; not reentrant."""
        with self._changed:
            self._writers_waiting += 1
            self._changed.wait_for(self._writer_may_enter)
            self._writers_waiting -= 1
            self._writing = True
        try:
            yield
        finally:
            with self._changed:
                self._writing = False
                self._readers_due = self._readers_waiting
                self._changed.notify_all()

    def _reader_may_enter(self) -> bool:
        return not self._writing and (self._readers_due > 0 or self._writers_waiting == 0)

    def _writer_may_enter(self) -> bool:
        return not self._writing and self._readers == 0 and self._readers_due == 0
