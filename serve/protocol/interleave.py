"""Requests of one stream answered side by side, their replies interleaved as they come.

Triton's decoupled models answer so: a client tells replies apart by the id of the request that each carries. Requests
that cannot be told apart, because they share an id or have none, are answered one after the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Generic, TypeVar

Request = TypeVar("Request")
Reply = TypeVar("Reply")

# Requests of one stream in progress or waiting for their turn; the next is read when one of them has ended.
MOST_IN_PROGRESS = 8


class Interleaved(Generic[Request, Reply]):
    """Iterated once, gives every request's replies: those of one request in their order.

    At most `most` requests are in progress and at most as many replies wait for a slow reader. What `answer` or the
    stream of requests raises ends the iteration; then, as when the iteration is left or cancelled, every answer in
    progress is cancelled, and has ended when the iteration has.

    Args:
        requests: of the client, until it has sent its last one.
        answer: the replies to a request. It should not raise: it would take the other answers with it.
        name: a request's id.
    """

    def __init__(
        self,
        requests: AsyncIterator[Request],
        answer: Callable[[Request], AsyncGenerator[Reply, None]],
        name: Callable[[Request], str],
        most: int = MOST_IN_PROGRESS,
    ) -> None:
        self._requests, self._answer, self._name = requests, answer, name
        self._places, self._room = asyncio.Semaphore(most), asyncio.Semaphore(most)
        self._replies: asyncio.Queue[Reply | None] = asyncio.Queue()  # bounded by `_room`
        self._tasks: dict[asyncio.Task[None], str] = {}
        self._last: dict[str, asyncio.Task[None]] = {}
        self._failure: BaseException | None = None

    async def replies(self) -> AsyncGenerator[Reply, None]:
        """See the class."""
        reader = asyncio.create_task(self._read())
        reader.add_done_callback(self._ended)
        try:
            while (reply := await self._replies.get()) is not None:
                self._room.release()
                yield reply
            if self._failure is not None:
                raise self._failure
        finally:
            under_way = [reader, *self._tasks]
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    async def _read(self) -> None:
        async for request in self._requests:
            await self._places.acquire()
            name = self._name(request)
            task = asyncio.create_task(self._serve(request, self._last.get(name)))
            self._tasks[task] = name
            self._last[name] = task
            task.add_done_callback(self._served)
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _serve(self, request: Request, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait([before])
        async with aclosing(self._answer(request)) as pieces:
            async for piece in pieces:
                await self._room.acquire()
                self._replies.put_nowait(piece)

    def _served(self, task: asyncio.Task[None]) -> None:
        name = self._tasks.pop(task)
        if self._last[name] is task:
            del self._last[name]
        self._places.release()
        if not task.cancelled() and task.exception() is not None:
            self._ended(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """The end of the iteration, by an error if the task had one."""
        if self._failure is None:
            self._failure = asyncio.CancelledError() if task.cancelled() else task.exception()
        self._replies.put_nowait(None)
