"""What an adapter can do wrong, and a pipeline that closes under its callers."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from deployments.base import Pipeline
from deployments.batching import BatchLimits
from serve.errors import ArgusError, ModelFailed, Unavailable
from tests.unit.test_pipeline import NEVER, Tenfold, failing


async def test_what_breaks_postprocessing_fails_alone() -> None:
    class Picky(Tenfold):
        def postprocess(self, item: Any, raw: Any) -> Any:
            if item == 2:
                raise ValueError("odd output")
            return super().postprocess(item, raw)

    pipeline: Pipeline[Any, Any, Any, Any] = Pipeline(Picky(), BatchLimits())
    first, second, third = await pipeline.run_all([1, 2, 3], NEVER)
    assert (first, third) == ("1->20", "3->40")
    assert isinstance(second, ModelFailed)
    await pipeline.close()


@pytest.mark.parametrize("hook", ["cost", "lane"])
async def test_what_breaks_cost_or_lane_fails_alone(hook: str) -> None:
    adapter = Tenfold()
    setattr(adapter, hook, lambda prepared: 1 if prepared != 3 else 1 // 0)
    pipeline: Pipeline[Any, Any, Any, Any] = Pipeline(adapter, BatchLimits())
    first, second = await pipeline.run_all([1, 2], NEVER)
    assert first == "1->20"
    assert isinstance(second, ArgusError)
    await pipeline.close()


async def test_a_closed_pipeline_is_unavailable_not_a_bad_image() -> None:
    pipeline: Pipeline[Any, Any, Any, Any] = Pipeline(Tenfold(), BatchLimits())
    await pipeline.close()
    with pytest.raises(Unavailable):
        await pipeline.run(1, NEVER)


async def test_what_waits_for_the_pool_when_it_closes_is_unavailable() -> None:
    adapter = Tenfold()
    adapter.preprocess_gate.clear()
    pipeline: Pipeline[Any, Any, Any, Any] = Pipeline(adapter, BatchLimits(), workers=1)
    running = asyncio.create_task(pipeline.run(1, NEVER))
    waiting = asyncio.create_task(pipeline.run(2, NEVER))
    await asyncio.sleep(0.05)
    await pipeline.close()
    adapter.preprocess_gate.set()
    results = await asyncio.gather(running, waiting, return_exceptions=True)
    assert [type(result) for result in results] == [Unavailable, Unavailable]


async def test_warm_up_of_a_model_that_fails_raises() -> None:
    """The forward pass gives the exception in the probe's place; nobody looks at it."""
    adapter = Tenfold()
    adapter.probe_item = failing(RuntimeError("CUDA error"))
    pipeline: Pipeline[Any, Any, Any, Any] = Pipeline(adapter, BatchLimits())
    with pytest.raises(Exception, match="CUDA error"):
        await pipeline.warm_up()
    await pipeline.close()


async def test_warm_up_does_not_block_the_loop() -> None:
    threads: list[str] = []

    class Noting(Tenfold):
        def preprocess(self, item: Any) -> Any:
            threads.append(threading.current_thread().name)
            return super().preprocess(item)

    pipeline: Pipeline[Any, Any, Any, Any] = Pipeline(Noting(), BatchLimits())
    await pipeline.warm_up()
    await pipeline.close()
    assert threads
    assert threading.main_thread().name not in threads
