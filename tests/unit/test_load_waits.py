"""Where queue waits come from: what a batcher says of its queue, and how it reaches the admission."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from deployments.batching import Batcher, BatchLimits
from deployments.messages import ClassifyRequest, ClassifyResult, EmbedRequest, EmbedResult, EncodedImage
from serve.config.cluster import ClusterFile
from serve.context import RequestContext
from serve.resilience.build import build_guard
from serve.resilience.cache_key import CacheKeys
from serve.resilience.recorder import Silent
from serve.routed_calls import RoutedCalls
from tests.unit.fakes import cluster

PASS_S = 0.1


class Passes:
    """A model whose passes take `PASS_S` on a clock that only they move."""

    def __init__(self) -> None:
        self.now = 0.0
        self.begin = asyncio.Event()
        self.batcher: Batcher[int, int] = Batcher(
            self._run, BatchLimits(max_items=2, max_wait_s=0.0), clock=lambda: self.now
        )

    async def _run(self, items: list[int]) -> list[int]:
        await self.begin.wait()
        await settle()  # the pass before has reached its callers
        self.now += PASS_S
        return items


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def waits_of(items: int) -> list[float]:
    """The standing wait after each of `items` that arrive during a first one's pass."""
    passes = Passes()
    seen: list[float] = []

    async def submit(item: int) -> None:
        await passes.batcher.submit(item)
        seen.append(passes.batcher.standing_wait_s)

    first = asyncio.create_task(submit(0))
    await settle()
    rest = [asyncio.create_task(submit(item)) for item in range(1, items + 1)]
    await settle()
    passes.begin.set()
    await asyncio.gather(first, *rest)
    await passes.batcher.close()
    return seen


async def test_gathering_during_a_pass_is_no_standing_queue() -> None:
    assert await waits_of(2) == pytest.approx([0, 0, 0])


async def test_what_did_not_fit_into_the_next_pass_waits_for_longer_than_it_must() -> None:
    assert await waits_of(6) == pytest.approx([0, 0, 0, PASS_S, PASS_S, 2 * PASS_S, 2 * PASS_S])


class Loaded:
    """A `ModelHandle` whose replies say how long its queue is."""

    def __init__(self, wait_s: float) -> None:
        self._wait_s = wait_s

    async def call(self, method: str, context: RequestContext, *args: Any, **kwargs: Any) -> Any:
        return ClassifyResult((), 1.0, self._wait_s) if method == "classify" else EmbedResult((), 0, self._wait_s)

    def stream(self, method: str, context: RequestContext, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize(("wait_s", "reported"), [(0.7, [0.7, 0.7]), (0.0, [])])
async def test_a_reply_carries_the_wait_at_its_model(wait_s: float, reported: list[float]) -> None:
    config: ClusterFile = cluster()
    waits: list[float] = []
    guard = build_guard(config, Silent(), lambda seconds, usual_s: None)
    calls = RoutedCalls({"clip": Loaded(wait_s)}, {}, guard, CacheKeys({}), on_wait=waits.append)
    context = RequestContext("r-1", "anonymous", time.monotonic() + 60)
    await calls.classify("clip", ClassifyRequest((EncodedImage(b"x"),), ("a",)), context)
    await calls.embed("clip", EmbedRequest(("text",)), context)
    assert waits == reported
