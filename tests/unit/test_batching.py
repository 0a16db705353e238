"""The batcher's promises, each through `submit` and a forward pass that the test opens and closes by hand."""

from __future__ import annotations

import asyncio
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.batching import Batcher, BatchLimits
from serve.errors import InvalidMedia, ModelFailed, Overloaded, PayloadTooLarge
from tests.support.batch_gate import NO_WAIT, Clock, Gate, Recorder, settle, start


async def test_collects_while_busy_and_runs_together_when_free() -> None:
    gate = Gate()
    batcher = Batcher(gate, NO_WAIT)
    first = start(batcher, [1])
    await gate.entered.wait()
    later = []
    for item in (2, 3, 4):
        later += start(batcher, [item])
        await settle()
    assert gate.batches == [[1]], "nothing may be sealed while the model is busy"
    gate.open()
    assert await asyncio.gather(*first, *later) == [10, 20, 30, 40]
    assert gate.batches == [[1], [2, 3, 4]]


async def test_other_limits_hold_from_the_next_batch_on() -> None:
    gate = Gate()
    batcher = Batcher(gate, BatchLimits(max_items=2, max_wait_s=0, max_queue=100))
    tasks = start(batcher, [0])
    await gate.entered.wait()
    tasks += start(batcher, range(1, 6))
    await settle()
    batcher.limit(BatchLimits(max_items=4, max_wait_s=0, max_queue=5))
    with pytest.raises(Overloaded):
        await batcher.submit(6)
    gate.open()
    assert await asyncio.gather(*tasks) == [0, 10, 20, 30, 40, 50]
    assert gate.batches == [[0], [1, 2, 3, 4], [5]]


async def test_what_costs_more_than_a_batch_may_now_is_still_run() -> None:
    gate = Gate()
    batcher = Batcher(gate, BatchLimits(max_cost=10, max_wait_s=0))
    tasks = start(batcher, [0])
    await gate.entered.wait()
    tasks += start(batcher, [1], cost=10) + start(batcher, [2], cost=1)
    await settle()
    batcher.limit(BatchLimits(max_cost=4, max_wait_s=0))
    gate.open()
    assert await asyncio.wait_for(asyncio.gather(*tasks), 30) == [0, 10, 20]
    assert gate.batches == [[0], [1], [2]]
    with pytest.raises(PayloadTooLarge):
        await batcher.submit(3, cost=5)


async def test_a_lone_item_on_an_idle_model_runs_at_once_even_with_a_long_wait() -> None:
    gate = Gate(opened=True)
    batcher = Batcher(gate, BatchLimits(max_wait_s=3600))
    assert await asyncio.wait_for(batcher.submit(7), 30) == 70


async def test_a_herd_that_returns_together_is_not_split() -> None:
    clock, gate = Clock(), Gate()

    async def run(items: list[int]) -> list[int | BaseException]:
        results = await gate(items)
        clock.now += 1000.0  # the pass takes that long
        return results

    batcher: Batcher[int, int] = Batcher(run, BatchLimits(max_wait_s=3600, max_items=8), clock=clock)
    head = start(batcher, [0])
    await gate.entered.wait()
    herd = start(batcher, range(1, 5))
    await settle()
    gate.open()
    await asyncio.gather(*head, *herd)
    second = start(batcher, [11])
    await settle()
    second += start(batcher, [12, 13, 14])
    await asyncio.gather(*second)
    assert gate.batches == [[0], [1, 2, 3, 4], [11, 12, 13, 14]]


async def test_waiting_for_a_herd_costs_at_most_a_quarter_of_a_pass() -> None:
    """The herd does not return; the one item that came is run, though `max_wait_s` is an hour."""
    gate = Gate(opened=True)
    batcher = Batcher(gate, BatchLimits(max_wait_s=3600, max_items=8))
    await asyncio.gather(*start(batcher, range(8)))
    assert await asyncio.wait_for(batcher.submit(9), 30) == 90


async def test_batches_are_bounded_by_count_and_by_cost() -> None:
    gate = Gate()
    batcher = Batcher(gate, BatchLimits(max_items=3, max_cost=10, max_wait_s=0))
    tasks = start(batcher, [0])
    await gate.entered.wait()
    for item, cost in [(1, 4), (2, 4), (3, 4), (4, 1), (5, 1), (6, 1), (7, 1)]:
        tasks += start(batcher, [item], cost=float(cost))
    await settle()
    gate.open()
    await asyncio.gather(*tasks)
    assert gate.batches == [[0], [1, 2], [3, 4, 5], [6, 7]]


async def test_an_item_dearer_than_a_whole_batch_is_refused() -> None:
    batcher = Batcher(Gate(opened=True), BatchLimits(max_cost=10))
    for cost in (10.5, math.inf, math.nan, 0.0, -1.0):
        with pytest.raises(PayloadTooLarge) as caught:
            await batcher.submit(1, cost=cost)
        assert caught.value.code == "item_too_large"
    assert await batcher.submit(1, cost=10) == 10


async def test_lanes_never_share_a_batch_and_the_oldest_goes_first() -> None:
    gate = Gate()
    batcher = Batcher(gate, NO_WAIT)
    tasks = start(batcher, [0])
    await gate.entered.wait()
    for item, lane in [(1, "image"), (2, "text"), (3, "image"), (4, "text")]:
        tasks += start(batcher, [item], lane=lane)
        await settle()
    gate.open()
    await asyncio.gather(*tasks)
    assert gate.batches == [[0], [1, 3], [2, 4]]


async def test_a_full_queue_refuses_and_says_when_to_return() -> None:
    gate = Gate()
    batcher = Batcher(gate, BatchLimits(max_queue=2, max_wait_s=0))
    tasks = start(batcher, [0])
    await gate.entered.wait()
    tasks += start(batcher, [1, 2])
    await settle()
    with pytest.raises(Overloaded) as caught:
        await batcher.submit(3)
    assert caught.value.retry_after_s is not None and caught.value.retry_after_s >= 0
    gate.open()
    assert await asyncio.gather(*tasks) == [0, 10, 20]


async def test_reports_true_queue_wait_from_submit_to_start_of_the_pass() -> None:
    clock, gate, recorder = Clock(), Gate(), Recorder()
    batcher = Batcher(gate, NO_WAIT, clock=clock, observer=recorder)
    tasks = start(batcher, [0])
    await gate.entered.wait()
    tasks += start(batcher, [1])
    await settle()
    clock.now += 3.0
    tasks += start(batcher, [2], cost=2.0)
    await settle()
    clock.now += 1.0
    gate.open()
    await asyncio.gather(*tasks)
    assert recorder.ran == [(1, 1.0, [0.0]), (2, 3.0, [4.0, 1.0])]


@pytest.mark.parametrize(
    "wrong", [{"max_items": 0}, {"max_queue": 0}, {"max_cost": 0}, {"max_wait_s": -1}, {"max_wait_s": math.inf}]
)
def test_limits_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        BatchLimits(**wrong)  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from(["ok", "item", "poison", "cancel"]), st.floats(0.1, 4)),
        max_size=40,
    ),
    st.integers(1, 6),
    st.floats(4, 9),
)
def test_every_item_gets_exactly_its_own_outcome(
    items: list[tuple[int, str, float]], max_items: int, max_cost: float
) -> None:
    """Whatever mix of lanes, costs, bad items, poisoned batches and leavers: good ones succeed, bad ones fail alone."""

    async def scenario() -> None:
        async def run(batch: list[int]) -> list[int | BaseException]:
            await asyncio.sleep(0)
            assert len(batch) <= max_items
            assert sum(items[i][2] for i in batch) <= max_cost + 1e-9
            assert len({items[i][0] for i in batch}) == 1
            if any(items[i][1] == "poison" for i in batch):
                raise RuntimeError("poison")
            return [InvalidMedia("bad item") if items[i][1] == "item" else i for i in batch]

        batcher: Batcher[int, int] = Batcher(run, BatchLimits(max_items=max_items, max_cost=max_cost, max_wait_s=0))
        tasks = [
            asyncio.create_task(batcher.submit(i, lane=lane, cost=cost)) for i, (lane, _, cost) in enumerate(items)
        ]
        await asyncio.sleep(0)
        for task, (_, kind, _) in zip(tasks, items, strict=True):
            if kind == "cancel":
                task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for i, ((_, kind, _), result) in enumerate(zip(items, results, strict=True)):
            expected = {"ok": int, "item": InvalidMedia, "poison": ModelFailed, "cancel": asyncio.CancelledError}[kind]
            assert isinstance(result, expected)
            assert kind != "ok" or result == i
        assert batcher.waiting == 0
        await batcher.close()

    asyncio.run(scenario())
