"""`Pipeline.run_all` with more items than the pool and the batcher hold."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from deployments.base import Adapter, Pipeline
from deployments.batching import BatchLimits
from serve.errors import DeadlineExceeded, InvalidRequest, Overloaded
from tests.unit.test_pipeline import NEVER, until

DEMO = BatchLimits(max_items=16, max_queue=512)
PLAIN = BatchLimits()
GPU = BatchLimits(max_items=64, max_queue=1024)


class Negative(Adapter[Any, Any, Any, Any]):
    """x -> -x; while `gate` is clear, the model is busy. 13 is refused by preprocessing."""

    def __init__(self) -> None:
        self.prepared: list[int] = []
        self.batches: list[int] = []
        self.gate = threading.Event()
        self.gate.set()

    def preprocess(self, item: int) -> int:
        if item == 13:
            raise InvalidRequest("Not this one.", code="unlucky")
        self.prepared.append(item)
        return item

    def forward(self, batch: Sequence[int]) -> Sequence[int]:
        self.batches.append(len(batch))
        self.gate.wait(30)
        return [-item for item in batch]

    def probe(self) -> int:
        return 1


@pytest.fixture
def adapter() -> Negative:
    return Negative()


@pytest.fixture
async def pipeline(adapter: Negative, request: pytest.FixtureRequest) -> AsyncIterator[Pipeline[Any, Any, Any, Any]]:
    made: Pipeline[Any, Any, Any, Any] = Pipeline(adapter, getattr(request, "param", DEMO))
    yield made
    adapter.gate.set()
    await made.close()


@pytest.mark.parametrize("pipeline", [DEMO, PLAIN, GPU, BatchLimits(4096, max_queue=4), BatchLimits(1)], indirect=True)
@pytest.mark.parametrize("labels", [1000, 10_000])
async def test_a_call_of_thousands_is_served_by_an_idle_model(pipeline: Any, labels: int) -> None:
    items = [14 + item for item in range(labels)]
    assert await pipeline.run_all(items, NEVER) == [-item for item in items]


async def test_an_error_stays_in_its_items_place_among_a_thousand(pipeline: Any) -> None:
    results = await pipeline.run_all(range(1000), NEVER)
    refused = results.pop(13)
    assert (type(refused), refused.code) == (InvalidRequest, "unlucky")
    assert results == [-item for item in range(1000) if item != 13]


async def test_labels_and_images_of_one_request_do_not_refuse_each_other(pipeline: Any) -> None:
    labels, images = range(1000, 1301), range(2000, 2256)
    found = await asyncio.gather(pipeline.run_all(labels, NEVER), pipeline.run_all(images, NEVER))
    assert found == [[-item for item in labels], [-item for item in images]]


@pytest.mark.parametrize("pipeline", [DEMO, PLAIN, GPU], indirect=True)
async def test_ten_callers_with_64_texts_each_are_served(adapter: Negative, pipeline: Any) -> None:
    adapter.gate.clear()  # so that all of them are there at once
    callers = [asyncio.create_task(pipeline.run_all(range(100, 164), NEVER)) for _ in range(10)]
    await until(lambda: pipeline.waiting > 200)
    adapter.gate.set()
    assert await asyncio.gather(*callers) == [[-item for item in range(100, 164)]] * 10


async def test_the_next_batch_is_ready_while_one_runs_and_no_more_than_that(adapter: Negative, pipeline: Any) -> None:
    adapter.gate.clear()
    call = asyncio.create_task(pipeline.run_all(range(100, 300), NEVER))
    await until(lambda: adapter.batches and adapter.batches[0] + pipeline.waiting == 32)
    await asyncio.sleep(0.02)
    assert len(adapter.prepared) == 32
    adapter.gate.set()
    assert len(await call) == 200


async def test_a_caller_that_leaves_cancels_what_waits_and_what_has_not_begun(adapter: Negative, pipeline: Any) -> None:
    adapter.gate.clear()
    call = asyncio.create_task(pipeline.run_all(range(100, 1100), NEVER))
    await until(lambda: adapter.batches and adapter.batches[0] + pipeline.waiting == 32)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    adapter.gate.set()
    assert await pipeline.run_all(range(2000, 2600), NEVER) == [-item for item in range(2000, 2600)]
    assert sum(item < 2000 for item in adapter.prepared) == 32


async def test_the_deadline_holds_for_every_item_of_a_long_call(adapter: Negative, pipeline: Any) -> None:
    adapter.gate.clear()
    results = await pipeline.run_all(range(100, 1100), time.monotonic() + 0.1)
    assert {type(result) for result in results} == {DeadlineExceeded}
    assert len(adapter.prepared) <= 32
    assert len(adapter.batches) == 1


async def test_callers_beyond_what_the_queue_holds_are_refused(adapter: Negative, pipeline: Any) -> None:
    adapter.gate.clear()
    first = asyncio.create_task(pipeline.run(0, NEVER))
    await until(lambda: adapter.batches)
    crowd = [asyncio.create_task(pipeline.run(item, NEVER)) for item in range(100, 612)]
    await until(lambda: pipeline.waiting == 512)
    results = await pipeline.run_all([1, 2, 3], NEVER)
    assert {type(result) for result in results} == {Overloaded}
    adapter.gate.set()
    assert await asyncio.gather(first, *crowd) == [0, *(-item for item in range(100, 612))]


async def test_a_crowd_of_callers_with_many_items_is_shed_and_nobody_is_refused_half_way(
    adapter: Negative, pipeline: Any
) -> None:
    adapter.gate.clear()
    crowd = [asyncio.create_task(pipeline.run_all(range(100, 164), NEVER)) for _ in range(700)]
    await until(lambda: any(caller.done() for caller in crowd))
    refused = [caller for caller in crowd if caller.done()]
    adapter.gate.set()
    outcomes = [{type(result) for result in results} for results in await asyncio.gather(*crowd)]
    assert outcomes.count({Overloaded}) == len(refused) < 690
    assert outcomes.count({int}) == 700 - len(refused)
    [error, *_] = await refused[0]
    assert error.retry_after_s is not None
