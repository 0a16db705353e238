"""Repeats of an image on a real Ray Serve with three replicas: `BoundedLoadRouter` behind `ServeHandle`."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, aclosing

import pytest
import pytest_asyncio
from ray import serve

from serve.affinity import FLOOR, SLACK
from serve.context import RequestContext
from serve.errors import Unavailable
from serve.handles import ServeHandle
from tests.support.own_serve import served
from tests.support.resting import Resting

pytestmark = pytest.mark.asyncio(loop_scope="module")

REPLICAS = 3
# So many that none of the replicas, whose places on the ring are drawn anew in every run, ends up with only a few.
IMAGES = [f"digest-{number}" for number in range(72)]


@pytest.fixture(scope="module")
def application() -> Iterator[None]:
    with served("resting", Resting, replicas=REPLICAS, num_cpus=0.1):
        yield


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def model(application: None) -> AsyncIterator[ServeHandle]:
    yield ServeHandle("resting", serve.get_app_handle("resting"))


def context() -> RequestContext:
    return RequestContext("test", "tester", time.monotonic() + 60)


async def where(model: ServeHandle, image: str, method: str = "where") -> int:
    """The replica that answers, asked as the router asks: again, while one cannot be reached."""
    for _ in range(1000):
        try:
            return int(await model.call(method, context(), affinity=image))
        except Unavailable:
            await asyncio.sleep(0.1)
    raise AssertionError("no replica answered in a thousand attempts")


async def homes(model: ServeHandle) -> dict[str, int]:
    return {image: await where(model, image) for image in IMAGES}


async def test_repeats_of_an_image_go_to_one_replica_and_images_spread(model: ServeHandle) -> None:
    first = await homes(model)
    for _ in range(3):
        assert await homes(model) == first
    assert len(set(first.values())) == REPLICAS


async def test_an_overloaded_favourite_is_passed_over_until_it_is_free(model: ServeHandle) -> None:
    image = IMAGES[0]
    favourite = await where(model, image)
    many = 12
    async with AsyncExitStack() as held:
        busy: Counter[int] = Counter()
        for _ in range(many):
            stream = await held.enter_async_context(aclosing(model.stream("stay", context(), affinity=image)))
            busy[await anext(stream)] += 1
        assert len(busy) == REPLICAS
        assert FLOOR <= max(busy.values()) == busy[favourite] <= math.ceil((1 + SLACK) * many / REPLICAS)
    in_a_row = 0
    for _ in range(1000):  # Ray Serve counts the streams off one by one as their ends arrive
        in_a_row = in_a_row + 1 if await where(model, image) == favourite else 0
        if in_a_row == 20:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("its requests did not come back to the favourite")


async def test_images_of_a_replica_that_dies_move_and_no_request_is_lost(model: ServeHandle) -> None:
    before = await homes(model)
    victim = before[IMAGES[0]]
    running = [asyncio.create_task(where(model, image, "linger")) for image in IMAGES]
    await asyncio.sleep(0.5)  # a third of them is in the replica that dies
    os.kill(victim, signal.SIGKILL)
    later = [asyncio.create_task(where(model, image)) for image in IMAGES * 3]
    answers = await asyncio.gather(*running, *later)
    assert victim not in answers
    moved = [image for image in IMAGES if before[image] == victim]
    for _ in range(100):  # Ray Serve counts the many requests off as their ends arrive; until then a replica looks full
        after = await homes(model)
        assert victim not in after.values()
        if len({after[image] for image in moved}) > 1:
            return
        await asyncio.sleep(0.1)
    raise AssertionError("its images did not spread over the others")
