"""`Pipeline`: an adapter's three stages with a bounded pool, the batcher and a health check around them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Hashable, Sequence
from typing import Any

import pytest

from deployments import base
from deployments.base import Adapter, CpuPool, Pipeline
from deployments.batching import BatchLimits
from serve.errors import DeadlineExceeded, InvalidMedia, InvalidRequest, ModelFailed, Overloaded, Unavailable

NEVER = float("inf")
PROBE = 1


class Tenfold(Adapter[Any, Any, Any, Any]):
    """x -> x + 1 -> 10 x -> text. Items that are exceptions make the stage fail that stands beside them."""

    def __init__(self) -> None:
        self.prepared: list[Any] = []
        self.batches: list[list[Any]] = []
        self.threads: set[str] = set()
        self.preprocess_gate, self.forward_gate = threading.Event(), threading.Event()
        self.preprocess_gate.set()
        self.forward_gate.set()
        self.probe_item: Any = PROBE

    def preprocess(self, item: Any) -> Any:
        self.preprocess_gate.wait(30)
        self.prepared.append(item)
        if isinstance(item, Exception):
            raise item
        return item if isinstance(item, tuple) else item + 1

    def forward(self, batch: Sequence[Any]) -> Sequence[Any]:
        self.batches.append(list(batch))
        self.threads.add(threading.current_thread().name)
        self.forward_gate.wait(30)
        return [prepared[1] if isinstance(prepared, tuple) else prepared * 10 for prepared in batch]

    def postprocess(self, item: Any, raw: Any) -> Any:
        return f"{item}->{raw}"

    def lane(self, prepared: Any) -> Hashable:
        return isinstance(prepared, int) and prepared % 2

    def cost(self, prepared: Any) -> float:
        return 100.0 if prepared == 1001 else 1.0

    def probe(self) -> Any:
        return self.probe_item


def failing(error: Exception) -> tuple[str, Exception]:
    """An item whose forward pass gives `error` in its place."""
    return ("fails", error)


@pytest.fixture
def adapter() -> Tenfold:
    return Tenfold()


@pytest.fixture
async def pipeline(adapter: Tenfold) -> Any:
    made: Pipeline[Any, Any, Any, Any] = Pipeline(adapter, BatchLimits(8, max_cost=50, max_wait_s=0, max_queue=4))
    yield made
    adapter.preprocess_gate.set()
    adapter.forward_gate.set()
    await made.close()


async def until(condition: Any) -> None:
    """Waits, off the clock of any assertion, until a thread has done what it was asked."""
    while not condition():  # noqa: ASYNC110 (what is waited for happens in a thread)
        await asyncio.sleep(0.001)


async def test_three_stages(adapter: Tenfold, pipeline: Any) -> None:
    assert await pipeline.run(4, NEVER) == "4->50"
    assert adapter.prepared == [4]
    assert adapter.batches == [[5]]


async def test_order_is_kept(pipeline: Any) -> None:
    assert await pipeline.run_all([3, 1, 2], NEVER) == ["3->40", "1->20", "2->30"]
    assert await pipeline.run_all([7], NEVER) == ["7->80"]
    assert await pipeline.run_all([], NEVER) == []


@pytest.mark.parametrize("position", [0, 1, 2])
async def test_what_preprocessing_refuses_fails_alone(pipeline: Any, position: int) -> None:
    items: list[Any] = [1, 2]
    items.insert(position, InvalidRequest("no", code="refused"))
    results = await pipeline.run_all(items, NEVER)
    refused = results.pop(position)
    assert (type(refused), refused.code) == (InvalidRequest, "refused")
    assert results == ["1->20", "2->30"]


async def test_what_breaks_preprocessing_is_the_items_fault(pipeline: Any) -> None:
    good, bad = await pipeline.run_all([1, ValueError("odd bytes")], NEVER)
    assert good == "1->20"
    assert isinstance(bad, InvalidMedia)
    assert "odd bytes" in bad.message
    [alone] = await pipeline.run_all([ValueError("odd bytes")], NEVER)
    assert isinstance(alone, InvalidMedia)


@pytest.mark.parametrize("defect", [TypeError("ours"), MemoryError(), RuntimeError("ours")])
async def test_a_defect_in_preprocessing_is_ours(pipeline: Any, defect: Exception) -> None:
    good, bad = await pipeline.run_all([1, defect], NEVER)
    assert good == "1->20"
    assert (type(bad), bad.fault) == (ModelFailed, "server")


async def test_what_the_model_refuses_fails_alone(pipeline: Any) -> None:
    good, ours, other = await pipeline.run_all(
        [1, failing(InvalidRequest("no")), failing(RuntimeError("CUDA error"))], NEVER
    )
    assert good == "1->20"
    assert type(ours) is InvalidRequest
    assert isinstance(other, ModelFailed)
    assert "CUDA error" in other.message


async def test_what_costs_more_than_a_batch_fails_alone(pipeline: Any) -> None:
    good, large = await pipeline.run_all([1, 1000], NEVER)
    assert good == "1->20"
    assert large.code == "item_too_large"


async def test_lanes_never_share_a_batch(adapter: Tenfold, pipeline: Any) -> None:
    adapter.forward_gate.clear()
    first = asyncio.create_task(pipeline.run(0, NEVER))
    await until(lambda: adapter.batches)
    others = [asyncio.create_task(pipeline.run(item, NEVER)) for item in (1, 2, 3, 4)]
    await until(lambda: pipeline.waiting == 4)
    adapter.forward_gate.set()
    assert await asyncio.gather(first, *others) == ["0->10", "1->20", "2->30", "3->40", "4->50"]
    assert sorted(sorted(batch) for batch in adapter.batches) == [[1], [2, 4], [3, 5]]


async def test_the_forward_pass_has_one_thread_of_its_own(adapter: Tenfold, pipeline: Any) -> None:
    for item in range(5):
        await pipeline.run(item, NEVER)
    assert len(adapter.threads) == 1
    assert adapter.threads != {threading.current_thread().name}


async def test_the_loop_goes_on_while_the_model_runs(adapter: Tenfold, pipeline: Any) -> None:
    adapter.forward_gate.clear()
    running = asyncio.create_task(pipeline.run(1, NEVER))
    await until(lambda: adapter.batches)  # would never return if the pass held the loop
    assert not running.done()
    adapter.forward_gate.set()
    assert await running == "1->20"


async def test_nothing_is_preprocessed_after_the_deadline(adapter: Tenfold, pipeline: Any) -> None:
    results = await pipeline.run_all([1, 2], time.monotonic() - 1)
    assert [type(result) for result in results] == [DeadlineExceeded, DeadlineExceeded]
    assert adapter.prepared == []
    assert adapter.batches == []


async def test_a_deadline_that_passes_while_waiting_for_the_pool(adapter: Tenfold) -> None:
    pipeline: Pipeline[Any, Any, Any, Any] = Pipeline(adapter, BatchLimits(), workers=1)
    adapter.preprocess_gate.clear()
    first = asyncio.create_task(pipeline.run(1, NEVER))
    late = asyncio.create_task(pipeline.run(2, time.monotonic() + 0.02))
    await asyncio.sleep(0.05)
    adapter.preprocess_gate.set()
    with pytest.raises(DeadlineExceeded):
        await late
    assert await first == "1->20"
    assert adapter.prepared == [1]
    await pipeline.close()


async def test_preprocessing_time_is_reported(adapter: Tenfold) -> None:
    took: list[float] = []
    pipeline: Pipeline[Any, Any, Any, Any] = Pipeline(adapter, BatchLimits(), preprocess_took=took.append)
    await pipeline.run_all([1, 2], NEVER)
    assert len(took) == 2
    assert all(seconds >= 0 for seconds in took)
    await pipeline.close()


async def test_a_full_queue_is_said_per_item(adapter: Tenfold, pipeline: Any) -> None:
    adapter.forward_gate.clear()
    first = asyncio.create_task(pipeline.run(0, NEVER))
    await until(lambda: adapter.batches)
    waiting = asyncio.create_task(pipeline.run_all([1, 2, 3, 4], NEVER))
    await until(lambda: pipeline.waiting == 4)
    with pytest.raises(Overloaded):
        await pipeline.run(5, NEVER)
    adapter.forward_gate.set()
    await first
    assert len(await waiting) == 4


async def test_the_pool_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_PENDING_PER_WORKER", 3)
    pool, gate = CpuPool(1), threading.Event()
    jobs = [asyncio.create_task(pool.run(gate.wait, 30)) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded) as caught:
        await pool.run(int)
    assert caught.value.retry_after_s is not None
    gate.set()
    assert await asyncio.gather(*jobs) == [True] * 3
    assert await pool.run(int, "7") == 7
    pool.close()


async def test_the_pool_hands_on_results_and_errors() -> None:
    pool = CpuPool(2)
    assert await pool.run(sorted, [2, 1], reverse=True) == [2, 1]
    with pytest.raises(ZeroDivisionError):
        await pool.run(lambda: 1 // 0)
    pool.close()


async def test_a_caller_that_leaves_frees_its_place_in_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_PENDING_PER_WORKER", 2)
    pool, gate = CpuPool(1), threading.Event()
    jobs = [asyncio.create_task(pool.run(gate.wait, 30)) for _ in range(2)]
    await asyncio.sleep(0)
    jobs[1].cancel()
    await asyncio.gather(jobs[1], return_exceptions=True)
    third = asyncio.create_task(pool.run(int, "3"))
    gate.set()
    assert await third == 3
    assert await jobs[0] is True
    pool.close()


async def test_health_check_takes_the_real_path(adapter: Tenfold, pipeline: Any) -> None:
    await pipeline.check(timeout_s=30)
    assert adapter.batches == [[PROBE + 1]]


@pytest.mark.parametrize(
    "probe", [failing(RuntimeError("CUDA error")), ValueError("no such file"), InvalidRequest("odd")]
)
async def test_a_failing_probe_is_unhealthy(adapter: Tenfold, pipeline: Any, probe: Any) -> None:
    adapter.probe_item = probe
    with pytest.raises(Unavailable, match="health probe failed"):
        await pipeline.check(timeout_s=30)


async def test_a_busy_model_is_healthy(adapter: Tenfold, pipeline: Any) -> None:
    adapter.forward_gate.clear()
    running = asyncio.create_task(pipeline.run(1, NEVER))
    await until(lambda: adapter.batches)
    await pipeline.check(timeout_s=0.02)  # in time for no answer
    waiting = [asyncio.create_task(pipeline.run(item, NEVER)) for item in (2, 3, 4, 5)]
    await until(lambda: pipeline.waiting >= 4)
    await pipeline.check(timeout_s=30)  # the queue is full, so the probe is refused
    adapter.forward_gate.set()
    assert await running == "1->20"
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_a_hung_model_is_unhealthy(adapter: Tenfold, pipeline: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "STALL_S", 0.0)
    adapter.forward_gate.clear()
    running = asyncio.create_task(pipeline.run(1, NEVER))
    await until(lambda: adapter.batches)
    with pytest.raises(Unavailable, match="has been running"):
        await pipeline.check(timeout_s=30)
    adapter.forward_gate.set()
    await running
    await pipeline.check(timeout_s=30)


async def test_warm_up_runs_the_probe_in_each_size(adapter: Tenfold, pipeline: Any) -> None:
    await pipeline.warm_up((1, 3))
    assert adapter.batches == [[PROBE + 1], [PROBE + 1] * 3]


async def test_warm_up_of_a_broken_model_raises(adapter: Tenfold, pipeline: Any) -> None:
    adapter.probe_item = ValueError("no tokenizer")
    with pytest.raises(ValueError, match="no tokenizer"):
        await pipeline.warm_up()


async def test_close_lets_the_running_batch_end_and_refuses_the_rest(adapter: Tenfold, pipeline: Any) -> None:
    adapter.forward_gate.clear()
    running = asyncio.create_task(pipeline.run(0, NEVER))
    await until(lambda: adapter.batches)
    waiting = asyncio.create_task(pipeline.run(2, NEVER))
    await until(lambda: pipeline.waiting == 1)
    closing = asyncio.create_task(pipeline.close())
    with pytest.raises(Unavailable):
        await waiting
    adapter.forward_gate.set()
    assert await running == "0->10"
    await closing
    assert adapter.batches == [[1]]


async def test_cancelling_a_request_cancels_all_its_items(adapter: Tenfold, pipeline: Any) -> None:
    adapter.forward_gate.clear()
    running = asyncio.create_task(pipeline.run(0, NEVER))
    await until(lambda: adapter.batches)
    request = asyncio.create_task(pipeline.run_all([1, 2, 3], NEVER))
    await until(lambda: pipeline.waiting == 3)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    adapter.forward_gate.set()
    assert await running == "0->10"
    assert await pipeline.run(4, NEVER) == "4->50"
    assert adapter.batches == [[1], [5]]


async def test_an_adapter_may_leave_postprocessing_out() -> None:
    class Plain(Tenfold):
        postprocess = Adapter.postprocess

    pipeline: Pipeline[Any, Any, Any, Any] = Pipeline(Plain(), BatchLimits())
    assert await pipeline.run(4, NEVER) == 50
    await pipeline.close()
