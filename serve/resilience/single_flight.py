"""Identical calls at the same time are one call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from serve import tracing
from serve.errors import DeadlineExceeded

T = TypeVar("T")


@dataclass(slots=True)
class _Flight(Generic[T]):
    task: asyncio.Task[T]
    span: tracing.Span | None
    waiters: int = field(default=0)


class SingleFlight(Generic[T]):
    """Calls in progress, by key.

    A call belongs to all that wait for it: it goes on when the one that began it goes away, and is cancelled with the
    last of them.
    """

    def __init__(self) -> None:
        self._flights: dict[Hashable, _Flight[T]] = {}

    def __len__(self) -> int:
        """Calls in progress."""
        return len(self._flights)

    def flying(self, key: Hashable) -> bool:
        """Whether a call of this key is in progress."""
        return key in self._flights

    def span(self, key: Hashable) -> tracing.Span | None:
        """What the call of this key is part of; None when there is none, or it is not sampled."""
        return self._flights[key].span if key in self._flights else None

    async def run(self, key: Hashable, call: Callable[[], Coroutine[Any, Any, T]], timeout_s: float) -> T:
        """The outcome of the key's call, which `call` begins when there is none.

        Args:
            timeout_s: longest that this caller waits, whatever the others do.

        Raises:
            DeadlineExceeded: the call lasts longer than this caller waits.
            Exception: whatever the call raised.
        """
        flight = self._flights.get(key) or self._begin(key, call)
        flight.waiters += 1
        try:
            await asyncio.wait((flight.task,), timeout=timeout_s)
            if not flight.task.done():
                raise DeadlineExceeded("The deadline passed before the call was answered.")
            return flight.task.result()
        finally:
            flight.waiters -= 1
            if not flight.waiters and not flight.task.done():
                self._end(key, flight)  # at once, so that nobody joins a call that is being cancelled
                flight.task.cancel()

    def _begin(self, key: Hashable, call: Callable[[], Coroutine[Any, Any, T]]) -> _Flight[T]:
        flight = _Flight(asyncio.get_running_loop().create_task(call()), tracing.current())
        self._flights[key] = flight

        def ended(task: asyncio.Task[T]) -> None:
            self._end(key, flight)
            if not task.cancelled():
                task.exception()  # seen, even when the last waiter left in the same moment

        flight.task.add_done_callback(ended)
        return flight

    def _end(self, key: Hashable, flight: _Flight[T]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
