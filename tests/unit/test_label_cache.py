"""The label cache: bounded, least recently used first out, and one computation a key however many wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable

import pytest

from deployments.label_cache import LabelCache


class Source:
    """Computes values, counts how often, and can be told to wait or to fail."""

    def __init__(self) -> None:
        self.computed: list[Hashable] = []
        self.finished: list[Hashable] = []
        self.failure: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def get(self, cache: LabelCache[str], key: str, size: int = 1) -> str:
        async def compute() -> str:
            self.computed.append(key)
            await self.gate.wait()
            if self.failure is not None:
                raise self.failure
            self.finished.append(key)
            return key.upper()

        return await cache.get(key, size, compute)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_value_is_computed_once() -> None:
    cache, source = LabelCache[str](10), Source()
    assert [await source.get(cache, "a") for _ in range(3)] == ["A", "A", "A"]
    assert source.computed == ["a"]


async def test_the_summed_size_is_bounded() -> None:
    cache, source = LabelCache[str](10), Source()
    for i, size in enumerate([4, 3, 3, 5, 1, 10, 2, 9]):
        assert await source.get(cache, f"k{i}", size) == f"K{i}"
        assert cache.used <= 10
        assert 1 <= len(cache) <= 10


async def test_used_is_what_is_held() -> None:
    cache, source = LabelCache[str](10), Source()
    for key, size in (("a", 4), ("b", 6)):
        await source.get(cache, key, size)
    assert (len(cache), cache.used) == (2, 10)
    await source.get(cache, "c", 5)  # both have to go: 6 + 5 is too much
    assert (len(cache), cache.used) == (1, 5)


async def test_the_least_recently_used_goes_first() -> None:
    cache, source = LabelCache[str](3), Source()
    for key in ("a", "b", "c", "a", "d"):  # "a" was used again, so "b" goes
        await source.get(cache, key)
    for key in ("a", "c", "d"):
        await source.get(cache, key)
    assert source.computed == ["a", "b", "c", "d"]
    await source.get(cache, "b")
    assert source.computed == ["a", "b", "c", "d", "b"]


async def test_concurrent_misses_share_one_computation() -> None:
    cache, source = LabelCache[str](3), Source()
    source.gate.clear()
    waiting = [asyncio.create_task(source.get(cache, "a")) for _ in range(5)]
    await settle()
    source.gate.set()
    assert await asyncio.gather(*waiting) == ["A"] * 5
    assert source.computed == ["a"]


async def test_a_failure_reaches_all_who_wait_and_is_not_kept() -> None:
    cache, source = LabelCache[str](3), Source()
    source.gate.clear()
    source.failure = ValueError("once")
    waiting = [asyncio.create_task(source.get(cache, "a")) for _ in range(3)]
    await settle()
    source.gate.set()
    assert [str(error) for error in await asyncio.gather(*waiting, return_exceptions=True)] == ["once"] * 3
    assert (len(cache), cache.used) == (0, 0)
    source.failure = None
    assert await source.get(cache, "a") == "A"
    assert (len(cache), cache.used) == (1, 1)


@pytest.mark.parametrize("leaver", [0, 1])
async def test_a_caller_that_leaves_takes_nothing_from_the_others(leaver: int) -> None:
    cache, source = LabelCache[str](3), Source()
    source.gate.clear()
    waiting = [asyncio.create_task(source.get(cache, "a")) for _ in range(2)]
    await settle()
    waiting[leaver].cancel()
    await settle()
    assert waiting[leaver].cancelled()
    source.gate.set()
    assert await waiting[1 - leaver] == "A"
    assert source.computed == ["a"]


async def test_what_everybody_left_is_still_kept() -> None:
    cache, source = LabelCache[str](3), Source()
    source.gate.clear()
    waiting = asyncio.create_task(source.get(cache, "a"))
    await settle()
    waiting.cancel()
    await settle()
    source.gate.set()
    await settle()
    assert source.finished == ["a"]
    assert await source.get(cache, "a") == "A"
    assert source.computed == ["a"]


async def test_a_value_larger_than_the_cache_is_answered_but_not_kept() -> None:
    cache, source = LabelCache[str](3), Source()
    await source.get(cache, "small", 2)
    assert await source.get(cache, "large", 4) == "LARGE"
    assert (len(cache), cache.used) == (1, 2)
    await source.get(cache, "small", 2)
    assert source.computed == ["small", "large"]


async def test_a_value_of_just_the_capacity_is_kept() -> None:
    cache, source = LabelCache[str](3), Source()
    for _ in range(2):
        await source.get(cache, "a", 3)
    assert source.computed == ["a"]


async def test_who_waits_for_an_evicted_value_still_gets_it() -> None:
    cache, source = LabelCache[str](1), Source()
    source.gate.clear()
    first = asyncio.create_task(source.get(cache, "a"))
    await settle()
    second = asyncio.create_task(source.get(cache, "b"))
    await settle()
    source.gate.set()
    assert await asyncio.gather(first, second) == ["A", "B"]
    assert (len(cache), cache.used) == (1, 1)


async def test_a_late_failure_of_an_evicted_value_does_not_take_its_successor() -> None:
    cache, source = LabelCache[str](1), Source()
    source.gate.clear()
    source.failure = ValueError("late")
    first = asyncio.create_task(source.get(cache, "a"))
    await settle()
    fresh = Source()
    await fresh.get(cache, "b")
    await fresh.get(cache, "a")  # the key is computed anew while its first computation still runs
    source.gate.set()
    with pytest.raises(ValueError, match="late"):
        await first
    await settle()
    assert (len(cache), cache.used) == (1, 1)
    assert await fresh.get(cache, "a") == "A"
    assert fresh.computed == ["b", "a"]
