"""The batcher when items fail, expire, are cancelled, or the batcher closes."""

from __future__ import annotations

import asyncio
import time

import pytest

from deployments.batching import Batcher
from serve.errors import DeadlineExceeded, InvalidMedia, ModelFailed, Unavailable
from tests.support.batch_gate import NO_WAIT, Clock, Gate, Recorder, settle, start


async def test_an_error_in_an_items_place_fails_that_item_alone() -> None:
    bad = InvalidMedia("broken", param="image")

    async def run(items: list[int]) -> list[int | BaseException]:
        return [bad if item == 2 else item for item in items]

    batcher: Batcher[int, int] = Batcher(run)
    results = await asyncio.gather(*start(batcher, [1, 2, 3]), return_exceptions=True)
    assert results == [1, bad, 3]


async def test_a_failing_batch_is_run_once_more_item_by_item() -> None:
    seen: list[list[int]] = []

    async def run(items: list[int]) -> list[int | BaseException]:
        seen.append(items)
        if 2 in items:
            raise RuntimeError("cannot see 2")
        return list(items)

    recorder = Recorder()
    batcher: Batcher[int, int] = Batcher(run, NO_WAIT, observer=recorder)
    one, two, three = await asyncio.gather(*start(batcher, [1, 2, 3]), return_exceptions=True)
    assert (one, three) == (1, 3)
    assert isinstance(two, ModelFailed) and "cannot see 2" in str(two)
    assert seen == [[1, 2, 3], [1], [2], [3]], "split once, never a second time"
    assert recorder.retried == [3]
    assert await batcher.submit(4) == 4


@pytest.mark.parametrize(
    "outcome",
    [
        RuntimeError("x"),
        StopIteration(),
        SystemExit(1),
        KeyboardInterrupt(),
        asyncio.CancelledError(),
        "too few",
        "too many",
        None,
    ],
)
async def test_nothing_that_a_forward_pass_does_stops_the_batcher(outcome: object) -> None:
    calls = 0

    async def run(items: list[int]) -> list[int | BaseException]:
        nonlocal calls
        calls += 1
        if calls > 1:
            return list(items)
        if isinstance(outcome, BaseException):
            raise outcome
        return {"too few": [], "too many": [1, 2, 3]}.get(outcome, outcome)  # type: ignore[arg-type, return-value]

    batcher: Batcher[int, int] = Batcher(run)
    with pytest.raises(ModelFailed):
        await batcher.submit(1)
    assert await batcher.submit(2) == 2


async def test_an_expired_item_is_dropped_before_the_forward_pass() -> None:
    clock, gate, recorder = Clock(), Gate(), Recorder()
    batcher = Batcher(gate, NO_WAIT, clock=clock, observer=recorder)
    head = start(batcher, [0])
    await gate.entered.wait()
    late = start(batcher, [1], deadline=clock.now + 500)
    fine = start(batcher, [2], deadline=clock.now + 5000)
    await settle()
    clock.now += 1000
    gate.open()
    with pytest.raises(DeadlineExceeded):
        await late[0]
    assert await asyncio.gather(*head, *fine) == [0, 20]
    assert gate.batches == [[0], [2]]
    assert recorder.drops == ["deadline"]


async def test_an_item_that_could_not_end_in_time_is_refused_but_not_for_ever() -> None:
    clock = Clock()
    runs: list[int] = []

    async def run(items: list[int]) -> list[int | BaseException]:
        runs.append(len(items))
        clock.now += 1.0  # the pass takes a second
        return list(items)

    batcher: Batcher[int, int] = Batcher(run, NO_WAIT, clock=clock)
    await batcher.submit(1)
    with pytest.raises(DeadlineExceeded):
        await batcher.submit(2, deadline=clock.now + 0.5)
    assert runs == [1], "a pass of a second cannot end within half a second"
    refused = 1
    while refused < 50:
        try:
            await batcher.submit(3, deadline=clock.now + 0.5)
            break
        except DeadlineExceeded:
            refused += 1
    assert refused < 50, "an estimate that is never tested again would refuse for ever"


async def test_a_batch_does_not_grow_beyond_what_its_tightest_deadline_allows() -> None:
    clock, sizes = Clock(), list[int]()

    async def run(items: list[int]) -> list[int | BaseException]:
        sizes.append(len(items))
        clock.now += float(len(items))  # a second an item
        return list(items)

    batcher: Batcher[int, int] = Batcher(run, NO_WAIT, clock=clock)
    for size in (1, 2, 4, 2):
        await asyncio.gather(*start(batcher, range(size)))
    sizes.clear()
    urgent = start(batcher, [0], deadline=clock.now + 2.5)
    patient = start(batcher, range(7))
    await asyncio.gather(*urgent, *patient)
    assert sizes[0] <= 3 and sum(sizes) == 8


async def test_a_hanging_pass_does_not_hang_a_caller_with_a_deadline() -> None:
    gate = Gate()
    batcher = Batcher(gate)
    loop_now = time.monotonic()
    running = start(batcher, [1], deadline=loop_now + 0.05)
    await gate.entered.wait()
    waiting = start(batcher, [2], deadline=loop_now + 0.05)
    for task in (*running, *waiting):
        with pytest.raises(DeadlineExceeded):
            await task
    assert batcher.running_for() > 0
    gate.open()
    assert await batcher.submit(3) == 30


async def test_a_cancelled_caller_is_not_run_and_hurts_nobody() -> None:
    gate, recorder = Gate(), Recorder()
    batcher = Batcher(gate, NO_WAIT, observer=recorder)
    head = start(batcher, [0])
    await gate.entered.wait()
    gone, stays = start(batcher, [1, 2])
    await settle()
    gone.cancel()
    head[0].cancel()  # its batch is running: the result has no reader any more
    await settle()
    gate.open()
    assert await stays == 20
    assert gate.batches == [[0], [2]]
    assert recorder.drops == ["cancelled"]


async def test_close_refuses_what_waits_and_lets_the_running_batch_end() -> None:
    gate = Gate()
    batcher = Batcher(gate, NO_WAIT)
    running = start(batcher, [1])
    await gate.entered.wait()
    waiting = start(batcher, [2])
    await settle()
    closing = asyncio.create_task(batcher.close())
    await settle()
    with pytest.raises(Unavailable):
        await waiting[0]
    with pytest.raises(Unavailable):
        await batcher.submit(3)
    gate.open()
    await closing
    assert await running[0] == 10
