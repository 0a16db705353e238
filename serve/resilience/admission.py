"""Admission: a bound on the requests that one router replica has in progress, over all protocols."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from serve.errors import Overloaded


class Admission:
    """Counts requests in progress.

    Args:
        limit: most of them.
        report: called with the count when it changes.
    """

    def __init__(self, limit: int, report: Callable[[int], None] = lambda count: None) -> None:
        self._limit = limit
        self._report = report
        self._count = 0

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Holds a place for the time of a request.

        Raises:
            Overloaded: none is free.
        """
        if self._count >= self._limit:
            raise Overloaded(f"This router has {self._limit} requests in progress, its limit.", retry_after_s=1.0)
        self._count += 1
        self._report(self._count)
        try:
            yield
        finally:
            self._count -= 1
            self._report(self._count)
