"""A store as an actor: blocking calls on a thread, so that the event loop never waits for the disk."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from serve.errors import Overloaded

T = TypeVar("T")


class StoreThread:
    """Runs calls of a store one after the other, or a few at a time.

    A cancelled call either happened entirely or not at all; what already runs, runs to its end.

    Args:
        name: of the store, for messages and threads.
        max_waiting: calls that may run or wait.
        threads: calls that run at the same time.
    """

    def __init__(self, name: str, max_waiting: int = 512, threads: int = 1) -> None:
        self._name = name
        self._thread = ThreadPoolExecutor(threads, thread_name_prefix=name)
        # Of its own, so that a long queue does not make a healthy replica look dead.
        self._prober = ThreadPoolExecutor(1, thread_name_prefix=f"{name}-health")
        self._slots = threading.Semaphore(max_waiting)

    async def run(self, call: Callable[[], T]) -> T:
        """The call's result.

        Raises:
            Overloaded: too many are waiting; nothing ran.
        """
        if not self._slots.acquire(blocking=False):
            raise Overloaded(f"Too many calls are waiting for the {self._name}.", retry_after_s=1.0)
        # The slot is freed when the thread is, not when a cancelled caller stops waiting for it.
        future = self._thread.submit(call)
        future.add_done_callback(lambda _: self._slots.release())
        return await asyncio.wrap_future(future)

    async def probe(self, call: Callable[[], T]) -> T:
        """A call that passes those that wait."""
        return await asyncio.get_running_loop().run_in_executor(self._prober, call)

    def close(self) -> None:
        """Lets accepted calls finish. Blocks."""
        self._thread.shutdown(wait=True)
        self._prober.shutdown(wait=True)
