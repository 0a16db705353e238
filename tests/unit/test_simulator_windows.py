"""Requests of many items, simulated and in the pool, windows and batcher that serve: when each of them ends."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.capacity.outcome import Outcome
from benchmarks.capacity.scenario import Flow
from benchmarks.capacity.simulator import simulate
from deployments.batching import Batcher, BatchLimits
from deployments.windows import Windows, places
from tests.support import made_up
from tests.support.virtual_loop import run_virtually

# Bounds of rounding: an event's time is a sum of the same numbers in another order.
_CLOSE_S = 1e-7
# One worker, whose jobs and passes hardly ever end at once: what comes first then is not what is compared.
_PREPARE_S, _PASS_S, _ITEM_S = 0.0013710, 0.0217319, 0.0021137
_PENDING = 256


def _simulate(arrivals: Sequence[float], items: int, limits: BatchLimits) -> Outcome:
    profile = made_up.model(made_up.passes((1, _PASS_S), (1024, _PASS_S + 1023 * _ITEM_S)), preprocess_s=_PREPARE_S)
    stage = made_up.stage(profile=profile, limits=limits, preprocess_workers=1)
    flow = Flow(name="all", entry="clip", items=items, deadline_s=3600)
    return simulate(made_up.scenario(stage, flows=(flow,)), np.array(arrivals), seed=1)


def _serve(arrivals: Sequence[float], items: int, limits: BatchLimits) -> list[float]:
    """Seconds from each arrival to its end, and -1 for what is refused."""

    async def main() -> list[float]:
        loop = asyncio.get_running_loop()
        worker = asyncio.Semaphore(1)
        windows = Windows(*places(limits.max_items, limits.max_queue, _PENDING))

        async def forward(batch: list[int]) -> list[int | BaseException]:
            await asyncio.sleep(_PASS_S + _ITEM_S * (len(batch) - 1))
            return list(batch)

        batcher: Batcher[int, int] = Batcher(forward, limits, clock=loop.time)

        async def one(item: int) -> int:
            async with worker:
                await asyncio.sleep(_PREPARE_S)
            return await batcher.submit(item)

        async def ask(arrived: float) -> float:
            await asyncio.sleep(arrived)
            if windows.full:
                return -1.0
            await windows.map(one, range(items))
            return loop.time() - arrived

        ends = await asyncio.gather(*(ask(arrived) for arrived in arrivals))
        await batcher.close()
        return ends

    return run_virtually(main())


def _compare(arrivals: Sequence[float], items: int, limits: BatchLimits) -> None:
    done = _simulate(arrivals, items, limits)
    simulated = np.where(done.ok, done.latency_s, -1.0)
    real = np.array(_serve(arrivals, items, limits))
    assert np.abs(real - simulated).max() <= _CLOSE_S, f"{real} for real, {simulated} simulated"


@pytest.mark.parametrize("items", [2, 15, 16, 17, 100, 1000])
def test_a_request_of_many_items_takes_as_long_as_in_the_window_that_serves(items: int) -> None:
    _compare([0.0], items, BatchLimits(max_items=8, max_wait_s=0.0))


def test_a_request_with_more_items_than_the_queues_hold_is_answered_by_an_idle_model() -> None:
    done = _simulate([0.0], 400, BatchLimits(max_items=4, max_queue=8))
    assert done.ok.all()
    assert done.stages["clip"].mean_batch <= 4


def test_a_request_that_finds_no_place_is_refused_and_the_next_one_is_not() -> None:
    limits = BatchLimits(max_items=4, max_wait_s=0.0, max_queue=12)
    # Eight places, then two, one and one: the fifth finds none.
    arrivals = [0.0, 0.001, 0.002, 0.003, 0.004, 60.0]
    done = _simulate(arrivals, 200, limits)
    assert done.ok.tolist() == [True, True, True, True, False, True]
    _compare(arrivals, 200, limits)


@settings(max_examples=60, deadline=None)
@given(
    items=st.integers(1, 60),
    max_items=st.integers(1, 12),
    max_queue=st.sampled_from([24, 40, 1024]),
    wait_s=st.sampled_from([0.0, 0.002]),
    gaps=st.lists(st.floats(0.0001, 0.4), min_size=1, max_size=12),
)
def test_requests_that_share_a_model_end_when_they_do_there(
    items: int, max_items: int, max_queue: int, wait_s: float, gaps: list[float]
) -> None:
    _compare(np.cumsum(gaps).tolist(), items, BatchLimits(max_items=max_items, max_queue=max_queue, max_wait_s=wait_s))
