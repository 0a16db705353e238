"""The cache of loaded scenes: one load for all who ask, bounded memory, and nothing taken from under a user."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Literal

import pytest

from deployments.rendering.messages import SceneRef
from deployments.rendering.scene_cache import SceneCache
from serve.errors import ArgusError, InvalidMedia, PayloadTooLarge


@dataclass(frozen=True)
class Scene:
    digest: str
    nbytes: int


class Loader:
    """Loads at once, or when let; counts the loads of each scene."""

    def __init__(self, sizes: dict[str, int] | None = None) -> None:
        self.loads: Counter[str] = Counter()
        self.sizes = sizes or {}
        self.errors: dict[str, Exception] = {}
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, scene: SceneRef) -> Scene:
        self.loads[scene.digest] += 1
        await self.gate.wait()
        if scene.digest in self.errors:
            raise self.errors[scene.digest]
        return Scene(scene.digest, self.sizes.get(scene.digest, scene.nbytes))


class Noted:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.events: Counter[str] = Counter()
        self.held = (0, 0)

    def asked(self, result: Literal["hit", "miss"]) -> None:
        self.events[result] += 1

    def loaded(self, seconds: float, failed: bool) -> None:
        self.events["failed" if failed else "loaded"] += 1

    def evicted(self) -> None:
        self.events["evicted"] += 1

    def holds(self, scenes: int, nbytes: int) -> None:
        self.held = scenes, nbytes


def ref(digest: str, nbytes: int = 10) -> SceneRef:
    return SceneRef("gaussians", digest, nbytes)


async def touch(cache: SceneCache[Scene], *digests: str) -> None:
    for digest in digests:
        async with cache.use(ref(digest)) as scene:
            assert scene.digest == digest


async def settled() -> None:
    """Lets everything that can run, run."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_callers_of_one_scene_share_one_load() -> None:
    load = Loader()
    load.gate.clear()
    cache = SceneCache(100, load)
    callers = [asyncio.create_task(touch(cache, "a")) for _ in range(8)]
    await settled()
    callers[0].cancel()  # also the one that began the load may leave
    load.gate.set()
    ended = await asyncio.gather(*callers, return_exceptions=True)
    assert isinstance(ended[0], asyncio.CancelledError) and ended[1:] == [None] * 7
    assert load.loads == {"a": 1}
    await touch(cache, "a")
    assert load.loads == {"a": 1} and cache.used == 10


async def test_a_load_that_nobody_waits_for_any_more_is_kept() -> None:
    load = Loader()
    load.gate.clear()
    cache = SceneCache(100, load)
    caller = asyncio.create_task(touch(cache, "a"))
    await settled()
    caller.cancel()
    await settled()
    load.gate.set()
    await touch(cache, "a")
    assert load.loads == {"a": 1}


async def test_the_longest_unused_scene_goes_first() -> None:
    load, noted = Loader(), Noted()
    cache = SceneCache(30, load, noted)
    await touch(cache, "a", "b", "c", "a", "d")
    assert noted.held == (3, 30)
    await touch(cache, "a", "c", "d")
    assert load.loads == {"a": 1, "b": 1, "c": 1, "d": 1}
    await touch(cache, "b")
    assert load.loads["b"] == 2
    assert noted.events == {"miss": 5, "hit": 4, "loaded": 5, "evicted": 2}


async def test_a_scene_in_use_stays_while_an_idle_one_makes_room() -> None:
    load = Loader()
    cache = SceneCache(20, load)
    async with cache.use(ref("a")):
        await touch(cache, "b", "c", "d")
        await touch(cache, "a")
    assert load.loads == {"a": 1, "b": 1, "c": 1, "d": 1}


async def test_room_taken_by_scenes_in_use_is_waited_for() -> None:
    load = Loader()
    cache = SceneCache(20, load)
    async with AsyncExitStack() as users:
        await users.enter_async_context(cache.use(ref("a")))
        await users.enter_async_context(cache.use(ref("b")))
        waiting = asyncio.create_task(touch(cache, "c"))
        await settled()
        assert not waiting.done() and load.loads["c"] == 0 and cache.used == 20
    await waiting
    assert load.loads["c"] == 1 and cache.used <= 20


async def test_who_waits_for_room_comes_before_later_users_of_what_stands_in_the_way() -> None:
    """Two callers that hold a scene in turn, without a gap, would keep a third one waiting for ever."""
    load = Loader()
    cache = SceneCache(10, load)
    first = AsyncExitStack()
    await first.enter_async_context(cache.use(ref("a")))
    waiting = asyncio.create_task(touch(cache, "b"))
    await settled()
    later = asyncio.create_task(touch(cache, "a"))
    await settled()
    await first.aclose()
    await waiting
    assert cache.used == 10
    await later
    assert load.loads == {"a": 2, "b": 1}


async def test_small_scenes_do_not_pass_a_large_one_that_waits() -> None:
    load = Loader()
    cache = SceneCache(20, load)
    first, second = AsyncExitStack(), AsyncExitStack()
    await first.enter_async_context(cache.use(ref("a")))
    await second.enter_async_context(cache.use(ref("b")))
    order: list[str] = []

    async def use(digest: str, nbytes: int) -> None:
        async with cache.use(ref(digest, nbytes)):
            order.append(digest)

    tasks = [asyncio.create_task(use("large", 20)), asyncio.create_task(use("small", 10))]
    await settled()
    await first.aclose()
    await settled()
    assert order == []
    await second.aclose()
    await asyncio.gather(*tasks)
    assert order == ["large", "small"]


async def test_a_caller_that_gives_up_waiting_for_room_leaves_the_next_one_its_place() -> None:
    cache = SceneCache(10, Loader())
    async with cache.use(ref("a")):
        waiting = asyncio.create_task(touch(cache, "b"))
        next_one = asyncio.create_task(touch(cache, "c"))
        await settled()
        waiting.cancel()
        await settled()
    await next_one
    assert cache.used == 10 and len(cache) == 1


async def test_a_failed_load_is_told_to_all_who_wait_and_not_kept() -> None:
    load, noted = Loader(), Noted()
    load.errors["bad"] = InvalidMedia("damaged")
    load.gate.clear()
    cache = SceneCache(100, load, noted)
    callers = [asyncio.create_task(touch(cache, digest)) for digest in ("bad", "bad", "good")]
    await settled()
    load.gate.set()
    ended = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(result) for result in ended] == [InvalidMedia, InvalidMedia, type(None)]
    assert cache.used == 10 and noted.held == (1, 10) and noted.events["failed"] == 1
    del load.errors["bad"]
    await touch(cache, "bad")
    assert load.loads["bad"] == 2


@pytest.mark.parametrize("known_before", [True, False])
async def test_a_scene_larger_than_the_whole_budget_is_refused(known_before: bool) -> None:
    load = Loader({"big": 101})
    cache = SceneCache(100, load)
    await touch(cache, "a")
    with pytest.raises(PayloadTooLarge) as refused:
        async with cache.use(ref("big", 101 if known_before else 50)):
            pass
    assert (refused.value.code, refused.value.param) == ("scene_too_large", "scene")
    assert load.loads["big"] == (0 if known_before else 1)
    assert cache.used == 10
    await touch(cache, "a")
    assert load.loads["a"] == 1


async def test_a_scene_that_turns_out_larger_than_its_file_displaces_others() -> None:
    cache = SceneCache(30, Loader({"c": 25}))
    await touch(cache, "a", "b", "c")
    assert cache.used == 25 and len(cache) == 1


async def test_memory_stays_within_the_budget_under_many_callers() -> None:
    """Any mix of scenes, sizes, failures and callers that leave: the bound always holds and the count ends exact."""
    load, noted = Loader(), Noted()
    load.errors["s3"] = InvalidMedia("damaged")
    cache = SceneCache(50, load, noted)
    sizes = {"s0": 5, "s1": 12, "s2": 19, "s3": 26, "s4": 33, "s5": 40}
    most = 0

    async def caller(digest: str, turns: int) -> None:
        nonlocal most
        try:
            async with cache.use(ref(digest, sizes[digest])) as scene:
                assert scene.digest == digest
                for _ in range(turns):
                    most = max(most, cache.used)
                    await asyncio.sleep(0)
        except ArgusError as error:
            assert digest == "s3", error

    callers = [asyncio.create_task(caller(f"s{number * 7 % 6}", 1 + number % 4)) for number in range(200)]
    for number, task in enumerate(callers):
        if number % 9 == 0:
            task.cancel()
        await asyncio.sleep(0)
    await asyncio.gather(*callers, return_exceptions=True)
    await settled()
    assert 0 < most <= 50
    assert noted.held == (len(cache), cache.used)
    # Together exactly as large as the budget: they fit only when nothing is counted that is gone.
    for digest in ("s0", "s1", "s4"):
        await caller(digest, 1)
    loads = load.loads.copy()
    for digest in ("s0", "s1", "s4"):
        await caller(digest, 1)
    assert load.loads == loads and (len(cache), cache.used) == (3, 50)
