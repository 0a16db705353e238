"""Admission: a bound on the requests that one router replica has in progress, over all protocols."""

from __future__ import annotations

from collections.abc import Callable

from serve.errors import Overloaded


class Admission:
    """Counts requests in progress: `with admission:` holds a place for the time of a request.

    Args:
        limit: most of them.
        report: called with the count when it changes.
    """

    def __init__(self, limit: int, report: Callable[[int], None] = lambda count: None) -> None:
        self._limit = limit
        self._report = report
        self._count = 0

    def __enter__(self) -> None:
        """Takes a place.

        Raises:
            Overloaded: none is free.
        """
        if self._count >= self._limit:
            raise Overloaded(f"This router has {self._limit} requests in progress, its limit.", retry_after_s=1.0)
        self._count += 1
        self._report(self._count)

    def __exit__(self, *error: object) -> None:
        """Gives the place back."""
        self._count -= 1
        self._report(self._count)
