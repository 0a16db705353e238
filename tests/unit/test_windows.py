"""`Windows`: how many items of a call run at once, alone and beside other calls."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from deployments.windows import Windows


class Calls:
    """Calls whose items run until told to end."""

    def __init__(self, windows: Windows) -> None:
        self.windows = windows
        self.running: Counter[str] = Counter()
        self._gates: dict[str, asyncio.Event] = {}

    def begin(self, name: str, items: int) -> asyncio.Task[list[int]]:
        gate = self._gates[name] = asyncio.Event()

        async def run(item: int) -> int:
            self.running[name] += 1
            try:
                await gate.wait()
                return -item
            finally:
                self.running[name] -= 1

        return asyncio.create_task(self.windows.map(run, range(items)))

    def end(self, name: str) -> None:
        self._gates[name].set()


async def settled() -> None:
    """Lets every task go as far as it can."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_a_call_alone_gets_what_is_useful_to_it_and_its_results_in_order() -> None:
    calls = Calls(Windows(useful=8, most=100))
    call = calls.begin("a", 30)
    await settled()
    assert calls.running["a"] == 8
    calls.end("a")
    assert await call == [-item for item in range(30)]


async def test_a_call_alone_never_gets_more_than_the_queues_hold() -> None:
    calls = Calls(Windows(useful=8, most=3))
    call = calls.begin("a", 5)
    await settled()
    assert calls.running["a"] == 3
    calls.end("a")
    await call


async def test_each_further_call_gets_half_of_what_the_others_leave_and_at_least_one_place() -> None:
    calls = Calls(Windows(useful=8, most=16))
    tasks = []
    for name in "abcde":
        tasks.append(calls.begin(name, 30))
        await settled()
    assert [calls.running[name] for name in "abcde"] == [8, 4, 2, 1, 1]
    for name in "abcde":
        calls.end(name)
    assert [len(results) for results in await asyncio.gather(*tasks)] == [30] * 5


async def test_it_is_full_when_its_places_are_taken_and_until_a_call_ends() -> None:
    calls = Calls(Windows(useful=8, most=16))
    tasks = []
    for name in "abcde":
        assert not calls.windows.full
        tasks.append(calls.begin(name, 30))
        await settled()
    assert calls.windows.full
    calls.end("c")
    await tasks.pop(2)
    assert not calls.windows.full
    for name in "abde":
        calls.end(name)
    await asyncio.gather(*tasks)


async def test_a_call_takes_no_places_that_it_has_no_items_for() -> None:
    calls = Calls(Windows(useful=8, most=16))
    tasks = [calls.begin("a", 2), calls.begin("b", 30)]
    await settled()
    assert [calls.running[name] for name in "ab"] == [2, 7]
    calls.end("a")
    calls.end("b")
    await asyncio.gather(*tasks)


async def test_a_call_grows_when_another_has_ended() -> None:
    windows = Windows(useful=8, most=9)
    calls = Calls(windows)
    first = calls.begin("a", 8)
    await settled()
    started: list[int] = []
    steps = asyncio.Semaphore(0)

    async def run(item: int) -> None:
        started.append(item)
        await steps.acquire()

    second = asyncio.create_task(windows.map(run, range(30)))
    await settled()
    assert len(started) == 1
    calls.end("a")
    await first
    steps.release()
    await settled()
    assert len(started) - 1 == 8
    for _ in range(30):
        steps.release()
    await second


@pytest.mark.parametrize("turns", range(4))
async def test_a_call_that_is_cancelled_cancels_its_items_and_gives_its_places_back(turns: int) -> None:
    """At whatever point of its beginning: it, or its items, may not have run yet."""
    calls = Calls(Windows(useful=8, most=8))
    call = calls.begin("a", 30)
    for _ in range(turns):
        await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert calls.running["a"] == 0
    other = calls.begin("b", 30)
    await settled()
    assert calls.running["b"] == 8
    calls.end("b")
    await other


async def test_other_bounds_hold_for_calls_that_begin_later() -> None:
    calls = Calls(Windows(useful=8, most=8))
    calls.windows.resize(useful=3, most=8)
    call = calls.begin("a", 30)
    await settled()
    assert calls.running["a"] == 3
    calls.end("a")
    await call
