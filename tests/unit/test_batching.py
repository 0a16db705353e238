"""The batcher's promises, each through `submit` and a forward pass that the test opens and closes by hand."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.batching import Batcher, BatchLimits, SilentObserver
from serve.errors import DeadlineExceeded, InvalidMedia, ModelFailed, Overloaded, PayloadTooLarge, Unavailable


class Gate:
    """A forward pass (x -> 10 x) that runs only while the gate is open, and records its batches."""

    def __init__(self, *, opened: bool = False) -> None:
        self.batches: list[list[int]] = []
        self.running = 0
        self.entered = asyncio.Event()
        self._open = asyncio.Event()
        if opened:
            self._open.set()

    async def __call__(self, items: list[int]) -> list[int | BaseException]:
        self.batches.append(items)
        self.running += 1
        assert self.running == 1, "two batches ran at once"
        self.entered.set()
        await self._open.wait()
        self.running -= 1
        return [10 * item for item in items]

    def open(self) -> None:
        self._open.set()


class Recorder(SilentObserver):
    def __init__(self) -> None:
        self.ran: list[tuple[int, float, list[float]]] = []
        self.drops: list[str] = []
        self.retried: list[int] = []

    def batch_ran(self, *, items: int, cost: float, forward_s: float, waits_s: Sequence[float]) -> None:
        self.ran.append((items, cost, list(waits_s)))

    def dropped(self, reason: str) -> None:
        self.drops.append(reason)

    def retried_alone(self, items: int) -> None:
        self.retried.append(items)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


NO_WAIT = BatchLimits(max_wait_s=0)


async def settle() -> None:
    """Lets everything that can run now run."""
    for _ in range(20):
        await asyncio.sleep(0)


def start(batcher: Batcher[int, int], items: Sequence[int], **options: object) -> list[asyncio.Task[int]]:
    return [asyncio.create_task(batcher.submit(item, **options)) for item in items]  # type: ignore[arg-type]


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
