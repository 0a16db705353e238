"""Chunks worked on side by side: a bounded number at a time, one failure apart from the others, progress told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import TypeVar

from serve.errors import ArgusError, Cancelled, DeadlineExceeded, raise_if_all_failed
from serve.videos.plan import Chunk
from serve.videos.types import Body, ChunkResult, Done, OnProgress, Progress

T = TypeVar("T")


async def work(
    chunks: Sequence[Chunk],
    inputs: Callable[[Sequence[Chunk]], AsyncGenerator[tuple[Chunk, T], None]],
    one: Callable[[Chunk, T], Awaitable[Body]],
    concurrency: int,
    on_progress: OnProgress,
    done: Done,
) -> list[Body | ArgusError]:
    """What came of each chunk, in the chunks' order; an error is the chunk's own.

    Args:
        inputs: gives the chunks that are left what they are worked on with, in order; the next one is asked for when
            there is a place for it.
        one: does the work.
        done: what an earlier run has finished.

    Raises:
        ArgusError: all failed (the first one's error), the deadline passed, or `inputs` failed. Nothing goes on then.
    """
    results: dict[str, Body | ArgusError] = {chunk.key: done[chunk.key] for chunk in chunks if chunk.key in done}
    left = [chunk for chunk in chunks if chunk.key not in done]
    places = asyncio.Semaphore(concurrency)

    async def finish(chunk: Chunk, given: T) -> None:
        try:
            result: Body | ArgusError = await one(chunk, given)
        except (Cancelled, DeadlineExceeded):
            raise
        except ArgusError as error:
            result = error
        finally:
            places.release()
        results[chunk.key] = result
        told = (None, result) if isinstance(result, ArgusError) else (ChunkResult(chunk.key, result), None)
        await on_progress(Progress("watching", len(results), len(chunks), *told))

    await on_progress(Progress("watching", len(results), len(chunks)))
    try:
        async with asyncio.TaskGroup() as group, aclosing(inputs(left)) as given:
            async for chunk, value in given:
                await places.acquire()
                group.create_task(finish(chunk, value))
    except BaseExceptionGroup as errors:
        raise _first(errors) from None
    ordered = [results[chunk.key] for chunk in chunks]
    raise_if_all_failed(ordered)
    return ordered


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """One of ours, rather than what it led to."""
    return next((error for error in errors.exceptions if isinstance(error, ArgusError)), errors.exceptions[0])
