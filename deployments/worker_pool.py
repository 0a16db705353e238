"""Worker processes that read files of strangers.

A file can be made to take hours or gigabytes, or to crash the library that reads it, and nothing of that can be stopped
in a thread. So files are read in processes: each has one task at a time, a bound on its memory and on its seconds, and
when it dies or is ended, only that task is lost. Pebble's pool ends the one worker whose task ran too long or died and
starts another; that of the standard library fails every task of all workers then.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from pebble import ProcessExpired, ProcessFuture, ProcessPool

from serve.errors import ArgusError, InvalidMedia, Overloaded, Unavailable

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Subject:
    """What a pool's tasks are about, for the messages and codes of their errors.

    Attributes:
        owner: of the pool: `document reader`.
        file: what clients send: `document`.
        part: what one task deals with: `page`; the file itself, where a task takes it whole.
    """

    owner: str
    file: str
    part: str


class WorkerPool:
    """Runs functions in worker processes, as many at once as there are workers.

    Args:
        workers: processes.
        task_s: seconds that one task may take.
        most_waiting: tasks beyond those running; more are refused.
        start: called in each new process with `argument`; see `deployments.worker_process`.
    """

    def __init__(
        self,
        subject: Subject,
        workers: int,
        task_s: float,
        most_waiting: int,
        start: Callable[[T], None],
        argument: T,
    ) -> None:
        self._subject = subject
        self._workers = workers
        self._task_s = task_s
        self._most = workers + most_waiting
        self._taken = 0
        self._slots = asyncio.Semaphore(workers)
        self._make: Callable[[], ProcessPool] = lambda: ProcessPool(
            workers,
            initializer=start,
            initargs=(argument,),
            # A fork of a replica would share its threads' locks and its sockets.
            context=multiprocessing.get_context("spawn"),
        )
        self._pool = self._make()
        self._begun: dict[object, float] = {}

    @property
    def workers(self) -> int:
        """Tasks that run at the same time."""
        return self._workers

    @property
    def longest_s(self) -> float:
        """Seconds that the oldest running task has taken; 0 when none runs."""
        return time.monotonic() - min(self._begun.values()) if self._begun else 0.0

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The function's value. A caller that leaves gives up its place in the queue; what runs, runs to its end.

        Raises:
            Overloaded: as many wait as the pool takes.
            InvalidMedia: `FILE_too_slow`, `FILE_crashed`: the task was ended, or took its worker with it;
                `PART_too_large`, `invalid_PART`: it ran out of memory, or raised what is none of our errors.
            Unavailable: the workers had to be replaced.
        """
        subject = self._subject
        if self._taken >= self._most:
            raise Overloaded(f"The {subject.owner}'s queue is full ({self._taken} {subject.part}s).", retry_after_s=1.0)
        self._taken += 1
        try:
            await self._slots.acquire()
        except BaseException:
            self._taken -= 1
            raise
        loop, pool, key = asyncio.get_running_loop(), self._pool, object()
        self._begun[key] = time.monotonic()
        try:
            future: ProcessFuture[T] = pool.schedule(function, args, kwargs, timeout=self._task_s)
        except RuntimeError:  # it broke since the last task
            self._over(key)
            self._replace(pool)
            raise self._restarting() from None
        # Counted until the worker is free, not until the caller has left.
        future.add_done_callback(lambda _: None if loop.is_closed() else loop.call_soon_threadsafe(self._over, key))
        try:
            # Shielded: cancelling a running task would end its worker, and the next task would wait for a new one.
            return await asyncio.shield(asyncio.wrap_future(future))
        except TimeoutError:
            message = f"Work on this {subject.part} took longer than {self._task_s:g} s."
            raise InvalidMedia(message, code=f"{subject.file}_too_slow") from None
        except ProcessExpired as error:
            why = f"the {subject.file} is damaged, or needs too much memory"
            message = f"Work on this {subject.part} ended its worker: {why}."
            raise InvalidMedia(message, code=f"{subject.file}_crashed") from error
        except MemoryError:
            message = f"The {subject.part} needs more memory than a {subject.part} may take."
            raise InvalidMedia(message, code=f"{subject.part}_too_large") from None
        except BrokenProcessPool:
            self._replace(pool)
            raise self._restarting() from None
        except ArgusError:
            raise
        except Exception as error:
            # It passed every check and still broke a reader: it is the file that is bad.
            message = f"This {subject.part} cannot be read: {type(error).__name__}: {error}"
            raise InvalidMedia(message, code=f"invalid_{subject.part}") from error

    async def close(self) -> None:
        """Ends the workers."""
        await asyncio.to_thread(_end, self._pool)

    def _over(self, key: object) -> None:
        self._taken -= 1
        del self._begun[key]
        self._slots.release()

    def _replace(self, broken: ProcessPool) -> None:
        """A pool whose worker died between two tasks serves nobody any more."""
        if self._pool is broken:
            self._pool = self._make()
            asyncio.get_running_loop().run_in_executor(None, _end, broken)

    def _restarting(self) -> Unavailable:
        return Unavailable(f"The {self._subject.owner}'s workers are being replaced.", retry_after_s=1.0)


def _end(pool: ProcessPool) -> None:
    pool.stop()
    pool.join()
