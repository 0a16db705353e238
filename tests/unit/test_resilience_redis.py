"""Replicas that share a real Redis, and what happens when it is killed, hangs, or holds bytes of someone else."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from benchmarks.redis_server import RedisServer, redis_server
from serve.calls import Usage
from serve.config.resilience import Cache
from serve.config.resilience import Redis as Settings
from serve.errors import BudgetExceeded, ContentRefused
from serve.resilience.budget import Budget
from serve.resilience.cache import ResponseCache
from serve.resilience.guard import Job
from serve.resilience.rates import Rate, Rates
from serve.resilience.shared import NotShared, SharedStore, connect
from tests.unit.resilience_fakes import Clock, Remembers, Script, TextCodec, context, guard

pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")

TEXT = TextCodec()
# Long enough for a busy machine; that a request waits no longer is asserted by what it falls back to, not by a clock.
SETTINGS = {"timeout_ms": 1_000}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
async def url(server: RedisServer) -> str:
    async with Redis.from_url(server.url) as client:
        await client.flushall()
    return server.url


def store(url: str, recorder: Remembers | None = None) -> SharedStore:
    return connect(Settings(url=url, timeout_ms=1_000), "test", recorder or Remembers())


def cache(shared: SharedStore, recorder: Remembers) -> ResponseCache:
    return ResponseCache(Cache(), shared, recorder)


async def written(kept: ResponseCache) -> None:
    await asyncio.gather(*kept._writes)


async def test_one_replica_finds_what_another_kept(url: str) -> None:
    recorder, shared = Remembers(), store(url)
    one, other = cache(shared, recorder), cache(shared, recorder)
    one.put(b"k", TEXT, "hello", "m")
    one.put_error(b"bad", ContentRefused("No."), "m")
    await written(one)
    assert other.here(b"k", TEXT, "m") is None
    assert await other.elsewhere(b"k", TEXT, "m") == ("hello",)
    assert other.here(b"k", TEXT, "m") == ("hello",)
    with pytest.raises(ContentRefused, match="No"):
        await other.elsewhere(b"bad", TEXT, "m")
    assert await other.elsewhere(b"nothing", TEXT, "m") is None
    async with Redis.from_url(url) as client:
        assert all([0 < await client.pttl(key) <= 300_000 for key in await client.keys("argus:test:answer:*")])
    await shared.close()


@pytest.mark.parametrize("data", [b"", b"x", b"v\xff\xfe", b"e{}", b'e["refused"]', b'e["other","m","c",null]'])
async def test_bytes_of_someone_else_are_a_miss(url: str, data: bytes) -> None:
    recorder, shared = Remembers(), store(url)
    async with Redis.from_url(url) as client:
        await client.set(shared.key("answer", b"k".hex()), data)
    assert await cache(shared, recorder).elsewhere(b"k", TEXT, "m") is None
    assert recorder.counts["cache", "miss"] == 1
    await shared.close()


async def test_replicas_spend_one_budget(url: str) -> None:
    recorder, shared, clock = Remembers(), store(url), Clock(86_400.0 * 9)
    replicas = [Budget(1.0, {"a": 0.8}, shared, 4, recorder, clock) for _ in range(4)]
    tries = await asyncio.gather(
        *(replicas[n % 4].reserve("a" if n % 2 else "b", 0.05) for n in range(40)), return_exceptions=True
    )
    assert sum(isinstance(held, BudgetExceeded) for held in tries) == 20
    held = [reservation for reservation in tries if not isinstance(reservation, BaseException)]
    assert all(reservation.shared for reservation in held)
    await replicas[0].settle(held[0], 0.0)
    await replicas[3].reserve("b", 0.05)
    with pytest.raises(BudgetExceeded):
        await replicas[2].reserve("b", 0.01)
    assert recorder.left["*"] == pytest.approx(0.0)
    await shared.close()


class Away(SharedStore):
    """A Redis that cannot be reached while `gone`."""

    gone = False

    async def ask(self, question: Callable[[Redis], Awaitable[Any]]) -> Any:
        if self.gone:
            raise NotShared
        return await super().ask(question)


async def test_an_outage_does_not_double_the_budget_and_is_told_afterwards(url: str) -> None:
    clock, recorder = Clock(86_400.0 * 9), Remembers()
    stores = [Away(Redis.from_url(url), "argus:test", 1.0, recorder) for _ in range(2)]
    one, other = (Budget(1.0, {}, shared, 2, recorder, clock) for shared in stores)
    early = await one.reserve("a", 0.3)
    await other.reserve("a", 0.3)
    await one.reserve("a", 0.0)  # hears of the other's
    for shared in stores:
        shared.gone = True
    for replica in (one, other):
        held = await replica.reserve("a", 0.2)
        assert not held.shared
        with pytest.raises(BudgetExceeded):
            await replica.reserve("a", 0.01)
        await replica.settle(held, 0.15)
    await one.settle(early, 0.1)  # taken from Redis, settled without it
    for shared in stores:
        shared.gone = False
    await other.reserve("a", 0.0)
    await one.reserve("a", 0.0)
    assert recorder.left["*"] == pytest.approx(1 - 0.3 - 2 * 0.15 - 0.1)
    for shared in stores:
        await shared.close()


async def test_large_sums_stay_whole(url: str) -> None:
    """Millions of dollars and the price of a token are counted in one sum."""
    shared, clock, recorder = store(url), Clock(86_400.0 * 9), Remembers()
    money = Budget(2e6, {}, shared, 1, recorder, clock)
    await money.reserve("a", 1_999_999.0)
    for _ in range(3):
        await money.reserve("a", 1e-9)
    async with Redis.from_url(url) as client:
        assert await client.get("argus:test:usd:9:*") == b"1999999000000003"
    await shared.close()


async def test_replicas_share_rates(url: str) -> None:
    shared = store(url)
    replicas = [Rates(shared, 4, Clock()) for _ in range(4)]
    waits = await asyncio.gather(*(replicas[n % 4].take(Rate("r", 20, 1), Rate("t", 600, 3)) for n in range(40)))
    assert sum(wait == 0 for wait in waits) in (20, 21)  # one flows in every three seconds
    assert all(0 <= wait <= 3 for wait in waits)
    # 60 of 600 are taken, and ten flow back a second: seconds of a slow machine do not matter.
    assert await replicas[0].take(Rate("t", 600, 590)) > 0
    await replicas[0].adjust(Rate("t", 600, -60))
    assert await replicas[1].take(Rate("t", 600, 590)) == 0
    await replicas[1].adjust(Rate("t", 600, 600))
    assert await replicas[2].take(Rate("t", 600, 1)) == pytest.approx(59, abs=8)
    await shared.close()


async def test_a_guard_goes_on_when_redis_is_killed_and_when_it_is_back(tmp_path: Path) -> None:
    with redis_server(tmp_path) as own:
        recorder = Remembers()
        made = guard(
            recorder,
            resilience={"redis": {"url": own.url, **SETTINGS}, "usd_per_day": 10.0},
            tenants={"default": {"tokens_per_minute": 100_000}},
        )

        async def ask(key: bytes) -> Any:
            script = Script(usage=Usage(1, 1, 0.1))
            job: Job[Any] = Job("theirs", script, Usage(1, 1, 0.1), key, TEXT)
            return (await made.run(job, context())).value

        assert await ask(b"1") == "answer"
        assert recorder.counts["shared", True] > 0
        assert recorder.left["*"] == pytest.approx(9.9)
        own.kill()
        for number in range(20):
            assert await ask(b"down %d" % number) == "answer"
        assert 0 < recorder.counts["shared", False] <= 12  # the breaker spares the others the question
        assert recorder.left["*"] == pytest.approx(9.9 - 20 * 0.1)  # of what was left when it heard of Redis last
        own.start()
        before = recorder.counts["shared", True]
        made._shared._breaker._open_until = 0.0  # type: ignore[union-attr]
        for number in range(3):
            assert await ask(b"up %d" % number) == "answer"
        assert recorder.counts["shared", True] > before
        await made.close()


async def test_a_redis_that_hangs_is_asked_a_few_times_and_left_alone() -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    listening = await asyncio.start_server(hang, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    recorder = Remembers()
    shared = connect(Settings(url=f"redis://127.0.0.1:{port}", timeout_ms=5), "test", recorder)
    for _ in range(10):
        with pytest.raises(NotShared):
            await shared.ask(lambda redis: redis.get("k"))
    assert recorder.counts["shared", False] == 3
    await shared.close()
    listening.close()


async def test_a_cancelled_question_spoils_no_connection(url: str) -> None:
    """The answer to a question that was given up must not be read as the answer to the next one."""
    shared = store(url)
    await shared.ask(lambda redis: redis.set("a", "1"))
    await shared.ask(lambda redis: redis.set("b", "2"))
    for delay in range(20):
        task = asyncio.create_task(shared.ask(lambda redis: redis.get("a")))
        for _ in range(delay):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert await shared.ask(lambda redis: redis.get("b")) == b"2"
    await shared.close()
