"""What breaks around the cluster: what it depends on, the disk it writes to, the clock it reads, the nodes under it."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

from benchmarks.chaos.callers import Adds, Caller, Chat, Classify, Jobs, Turns
from benchmarks.chaos.inside import AWAY, WAITED, neighbours
from benchmarks.chaos.outcome import Allowed
from benchmarks.chaos.scenario import Scenario
from benchmarks.chaos.site import Site, Skipped
from benchmarks.chaos.skewed_clock import set_offset
from benchmarks.fake_providers import Fault

_FULL: Final = frozenset({"disk_full", "store_io", "out_of_capacity"})
_BLOCK: Final = 64 * 1024
# Replicas ended until one is on the second node, and the time in which another is there.
_TRIES: Final = 4
_NEW_REPLICA_S: Final = 15.0


@asynccontextmanager
async def _redis_killed(site: Site, wrong: list[str]) -> AsyncIterator[None]:
    redis = _part(site, "redis")
    redis.kill()
    try:
        yield
    finally:
        await asyncio.to_thread(redis.start)


@asynccontextmanager
async def _redis_silent(site: Site, wrong: list[str]) -> AsyncIterator[None]:
    redis = _part(site, "redis")
    with redis.paused():
        yield


@asynccontextmanager
async def _provider_silent(site: Site, wrong: list[str]) -> AsyncIterator[None]:
    hosted = site.parts["hosted"]
    hosted.always = Fault("hang")
    try:
        yield
    finally:
        hosted.always = None


@asynccontextmanager
async def _disk_full(site: Site, wrong: list[str]) -> AsyncIterator[None]:
    """No byte is left on the index's own file system; where none could be mounted, no file of it may grow."""
    filled = _filled if site.parts["disk"] else _limited
    async with filled(site):
        yield


@asynccontextmanager
async def _filled(site: Site) -> AsyncIterator[None]:
    ballast = site.folder / "vector_index" / "ballast"
    try:
        with ballast.open("wb", buffering=0) as file, suppress(OSError):
            while file.write(b"\0" * _BLOCK):
                pass
        yield
    finally:
        ballast.unlink()


@asynccontextmanager
async def _limited(site: Site) -> AsyncIterator[None]:
    """`RLIMIT_FSIZE` of the process that writes; CPython ignores its signal, so that writes fail with EFBIG."""
    (pid,) = site.replicas("index")
    soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (_largest_file(site.folder / "vector_index"), hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))


def _largest_file(folder: Path) -> int:
    return max((path.stat().st_size for path in folder.rglob("*") if path.is_file()), default=0)


@asynccontextmanager
async def _clock_jumps(site: Site, wrong: list[str]) -> AsyncIterator[None]:
    """An hour ahead, then an hour behind, then right again."""
    clock: Path = site.parts["clock"]
    try:
        for seconds in (3600.0, -3600.0):
            set_offset(clock, seconds)
            await asyncio.sleep(6.0)
    finally:
        set_offset(clock, 0.0)
    yield


@asynccontextmanager
async def _node_removed(site: Site, wrong: list[str]) -> AsyncIterator[None]:
    control = site.parts["control"]
    await asyncio.to_thread(control.do, "remove")
    try:
        yield
    finally:
        await asyncio.to_thread(control.do, "add")


@asynccontextmanager
async def _node_drained(site: Site, wrong: list[str]) -> AsyncIterator[None]:
    control = site.parts["control"]
    await asyncio.to_thread(control.do, "drain")
    try:
        yield
    finally:
        await asyncio.to_thread(control.do, "add")


def _there(deployment: str) -> Callable[[Site], Awaitable[None]]:
    """Serve moves no replica to a node that joins: some are ended until one is started on the second node."""

    async def before(site: Site) -> None:
        for _ in range(_TRIES):
            if deployment in await asyncio.to_thread(site.parts["control"].do, "where"):
                return
            site.kill_replica(deployment)
            await asyncio.sleep(_NEW_REPLICA_S)
        raise Skipped(f"Serve puts no replica of {deployment!r} onto the second node")

    return before


@asynccontextmanager
async def _gcs_killed(site: Site, wrong: list[str]) -> AsyncIterator[None]:
    control = site.parts["control"]
    await asyncio.to_thread(control.do, "kill_gcs")
    try:
        yield
    finally:
        await asyncio.to_thread(control.do, "start_gcs")


def _part(site: Site, name: str) -> Any:
    part = site.parts[name]
    if part is None:
        raise Skipped("redis-server is not installed here (Debian: apt-get install redis-server)")
    return part


def _asking() -> Sequence[Caller]:
    return [Classify(6), Turns(2), Chat(3), *neighbours()]


def _without_providers() -> Sequence[Caller]:
    return [Classify(8), Adds(3), Jobs(0.5), *neighbours()]


SCENARIOS: Final = (
    Scenario("redis", "Redis gone: killed, started anew", "main", _asking, _redis_killed, lasts_s=5.0),
    Scenario("redis-silent", "Redis gone: it answers nothing", "main", _asking, _redis_silent, lasts_s=5.0),
    Scenario(
        "provider",
        "a provider that answers nothing",
        "main",
        lambda: [
            Chat(3, deadline_s=4.0),
            Chat(3, "chain", warm=80, neighbour=True, name="chat with a fallback"),
            Turns(2, neighbour=True),
            *neighbours(),
        ],
        _provider_silent,
        Allowed(frozenset({"deadline_exceeded", "unavailable", "breaker_open", "overloaded"})),
        seconds=20.0,
        lasts_s=8.0,
    ),
    Scenario(
        "disk",
        "no room on the index's disk",
        "main",
        lambda: [Adds(8), Turns(2, neighbour=True), *neighbours()],
        _disk_full,
        Allowed(_FULL),
        seconds=14.0,
        lasts_s=5.0,
    ),
    Scenario(
        "clock",
        "the clock an hour ahead, then behind",
        "clock",
        # Not over gRPC, whose Python takes time.time() from a deadline that its C knows by the machine's clock: here,
        # and not where a machine's clock is set, these differ.
        lambda: [Classify(6), Adds(3), Turns(2), Chat(2), Jobs(0.5), *neighbours()[:1]],
        _clock_jumps,
        seconds=20.0,
        lasts_s=1.0,
    ),
    Scenario(
        "gcs",
        "Ray's GCS killed, started anew over Redis",
        "nodes",
        _without_providers,
        _gcs_killed,
        seconds=25.0,
        lasts_s=8.0,
    ),
    Scenario(
        "node-removed",
        "a node removed without a word",
        "nodes",
        _without_providers,
        _node_removed,
        Allowed(WAITED, cuts=True, neighbours=True, recovery_s=120.0),
        seconds=30.0,
        lasts_s=20.0,
        before=_there("staged"),
    ),
    Scenario(
        "node-drained",
        "a node drained, then removed",
        "nodes",
        _without_providers,
        _node_drained,
        Allowed(AWAY),
        seconds=35.0,
        lasts_s=5.0,
        before=_there("staged"),
    ),
    Scenario(
        "store-drained",
        "a node drained that a store is on",
        "nodes",
        _without_providers,
        _node_drained,
        Allowed(WAITED),
        seconds=35.0,
        lasts_s=5.0,
        before=_there("index"),
    ),
)
