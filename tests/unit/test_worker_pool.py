"""Worker processes of the document reader: what dies or takes too long is lost alone."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator

import psutil
import pytest
import pytest_asyncio

from deployments.worker_pool import Subject, WorkerPool
from serve.errors import InvalidMedia, InvalidRequest, Overloaded, Unavailable

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECONDS = 10.0
PAGES = Subject("document reader", "document", "page")


def start(argument: str) -> None:
    """What a new worker is told."""
    os.environ["POOL_TEST"] = argument


def told() -> tuple[int, str]:
    return os.getpid(), os.environ["POOL_TEST"]


def refuse(message: str) -> None:
    raise InvalidRequest(message, code="refused", param="pages")


def divide() -> float:
    return 1 / 0


def fill_memory() -> None:
    raise MemoryError


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool() -> AsyncIterator[WorkerPool]:
    made = WorkerPool(PAGES, 2, SECONDS, 3, start, "hello")
    yield made
    await made.close()


async def test_a_worker_is_started_and_kept(pool: WorkerPool) -> None:
    first = await pool.run(told)
    assert first[0] != os.getpid()
    assert first[1] == "hello"
    assert len({(await pool.run(told))[0] for _ in range(6)}) <= pool.workers


async def test_errors_come_back_whole(pool: WorkerPool) -> None:
    with pytest.raises(InvalidRequest, match="no such page") as caught:
        await pool.run(refuse, "no such page")
    assert (caught.value.code, caught.value.param) == ("refused", "pages")
    with pytest.raises(InvalidMedia) as caught:
        await pool.run(fill_memory)
    assert caught.value.code == "page_too_large"
    with pytest.raises(InvalidMedia, match="ZeroDivisionError") as caught:
        await pool.run(divide)
    assert caught.value.code == "invalid_page"


@pytest.mark.parametrize("end", ["abort", "kill"])
async def test_a_worker_that_dies_loses_its_own_task_only(pool: WorkerPool, end: str) -> None:
    dying = pool.run(os.abort) if end == "abort" else pool.run(kill_self)
    neighbour, died = await asyncio.gather(pool.run(time.sleep, 0.5), dying, return_exceptions=True)
    assert neighbour is None
    assert isinstance(died, InvalidMedia)
    assert died.code == "document_crashed"
    assert (await pool.run(told))[1] == "hello"


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def test_a_task_that_takes_too_long_is_ended(pool: WorkerPool) -> None:
    slow, neighbour = await asyncio.gather(
        pool.run(time.sleep, 600.0), pool.run(time.sleep, 0.1), return_exceptions=True
    )
    assert isinstance(slow, InvalidMedia)
    assert slow.code == "document_too_slow"
    assert neighbour is None
    assert pool.longest_s == 0


async def test_more_than_the_queue_takes_is_refused(pool: WorkerPool) -> None:
    results = await asyncio.gather(*(pool.run(time.sleep, 0.2) for _ in range(8)), return_exceptions=True)
    assert sum(isinstance(result, Overloaded) for result in results) == 3  # two run, three wait
    assert sum(result is None for result in results) == 5


async def test_a_caller_that_leaves_frees_its_place_in_the_queue(pool: WorkerPool) -> None:
    running = [asyncio.ensure_future(pool.run(time.sleep, 0.5)) for _ in range(2)]
    waiting = [asyncio.ensure_future(pool.run(time.sleep, 0.0)) for _ in range(3)]
    await asyncio.sleep(0)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert await asyncio.gather(*(pool.run(time.sleep, 0.0) for _ in range(3))) == [None] * 3
    await asyncio.gather(*running)


async def test_a_worker_that_dies_between_tasks_is_replaced(pool: WorkerPool) -> None:
    pids = {(await pool.run(told))[0] for _ in range(6)}
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(60):
        while True:
            try:
                assert (await pool.run(told))[0] not in pids
                break
            except (Unavailable, InvalidMedia):
                await asyncio.sleep(0.1)


async def test_workers_end_when_the_pool_is_closed() -> None:
    made = WorkerPool(PAGES, 1, SECONDS, 1, start, "bye")
    pid, _ = await made.run(told)
    await made.close()
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
