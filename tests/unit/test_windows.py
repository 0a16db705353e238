"""`Windows`: how many items of a call run at once, alone and beside other calls."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from deployments.windows import Windows


class Calls:
    """Calls whose items run until told to end."""

    def __init__(self, windows: Windows) -> None:
        self.windows = windows
        self.running: Counter[str] = Counter()
        self._gates: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[list[int]]] = {}

    def begin(self, name: str, items: int) -> asyncio.Task[list[int]]:
        gate = self._gates[name] = asyncio.Event()

        async def run(item: int) -> int:
            self.running[name] += 1
            try:
                await gate.wait()
                return -item
            finally:
                self.running[name] -= 1

        task = self._tasks[name] = asyncio.create_task(self.windows.map(run, range(items)))
        return task

    async def begun(self, name: str, items: int) -> int:
        """How many items of a call run once it has begun."""
        self.begin(name, items)
        await settled()
        return self.running[name]

    async def ended(self, name: str) -> list[int]:
        """What a call gives that is told to end."""
        self._gates[name].set()
        return await self._tasks.pop(name)

    async def all_ended(self) -> list[list[int]]:
        return [await self.ended(name) for name in list(self._tasks)]


async def settled() -> None:
    """Lets every task go as far as it can."""
    for _ in range(50):
        await asyncio.sleep(0)


@pytest.fixture
async def calls(request: pytest.FixtureRequest) -> AsyncIterator[Calls]:
    """Calls in windows of eight useful items, sixteen at most, or as the test is marked; ended with it."""
    made = Calls(Windows(useful=8, most=getattr(request, "param", 16)))
    yield made
    await made.all_ended()


def most(items: int) -> pytest.MarkDecorator:
    """Of all calls together."""
    return pytest.mark.parametrize("calls", [items], indirect=True)


@most(100)
async def test_a_call_alone_gets_what_is_useful_to_it_and_its_results_in_order(calls: Calls) -> None:
    assert await calls.begun("a", 30) == 8
    assert await calls.ended("a") == [-item for item in range(30)]


@most(3)
async def test_a_call_alone_never_gets_more_than_the_queues_hold(calls: Calls) -> None:
    assert await calls.begun("a", 5) == 3


async def test_each_further_call_gets_half_of_what_the_others_leave_and_at_least_one_place(calls: Calls) -> None:
    for name in "abcde":
        await calls.begun(name, 30)
    assert [calls.running[name] for name in "abcde"] == [8, 4, 2, 1, 1]
    assert [len(results) for results in await calls.all_ended()] == [30] * 5


async def test_it_is_full_when_its_places_are_taken_and_until_a_call_ends(calls: Calls) -> None:
    for name in "abcde":
        assert not calls.windows.full
        await calls.begun(name, 30)
    assert calls.windows.full
    await calls.ended("c")
    assert not calls.windows.full


async def test_a_call_takes_no_places_that_it_has_no_items_for(calls: Calls) -> None:
    calls.begin("a", 2)
    await calls.begun("b", 30)
    assert [calls.running[name] for name in "ab"] == [2, 7]


@most(9)
async def test_a_call_grows_when_another_has_ended(calls: Calls) -> None:
    await calls.begun("a", 8)
    started: list[int] = []
    steps = asyncio.Semaphore(0)

    async def run(item: int) -> None:
        started.append(item)
        await steps.acquire()

    second = asyncio.create_task(calls.windows.map(run, range(30)))
    await settled()
    assert len(started) == 1
    await calls.ended("a")
    steps.release()
    await settled()
    assert len(started) - 1 == 8
    for _ in range(30):
        steps.release()
    await second


@most(8)
@pytest.mark.parametrize("turns", range(4))
async def test_a_call_that_is_cancelled_cancels_its_items_and_gives_its_places_back(calls: Calls, turns: int) -> None:
    """At whatever point of its beginning: it, or its items, may not have run yet."""
    call = calls.begin("a", 30)
    for _ in range(turns):
        await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calls.ended("a")
    assert calls.running["a"] == 0
    assert await calls.begun("b", 30) == 8


@most(8)
async def test_other_bounds_hold_for_calls_that_begin_later(calls: Calls) -> None:
    calls.windows.resize(useful=3, most=8)
    assert await calls.begun("a", 30) == 3
