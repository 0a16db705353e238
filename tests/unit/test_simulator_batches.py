"""The simulated batcher against the one that serves: the same arrivals and passes, batch by batch."""

from __future__ import annotations

import asyncio
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.capacity.outcome import Outcome
from benchmarks.capacity.scenario import Flow
from benchmarks.capacity.simulator import simulate
from benchmarks.simulator import poisson
from deployments.batching import Batcher, BatchLimits
from serve.errors import ArgusError
from tests.support import made_up
from tests.support.virtual_loop import run_virtually

# Bounds of rounding: an event's time is a sum of the same numbers in another order.
_CLOSE_S = 1e-7


def _serve(done: Outcome, flows: tuple[Flow, ...], limits: BatchLimits, fixed_s: float, cost_s: float) -> list[float]:
    """When each request of a simulation ends in the real batcher, in an event loop without waiting: from its arrival,
    and negative when it is refused."""

    async def main() -> list[float]:
        loop = asyncio.get_running_loop()

        async def run(batch: list[float]) -> list[float | BaseException]:
            await asyncio.sleep(max(fixed_s, fixed_s + cost_s * (sum(batch) - 1)))
            return list(batch)

        batcher: Batcher[float, float] = Batcher(run, limits, clock=loop.time)

        async def ask(arrived: float, flow: Flow) -> float:
            await asyncio.sleep(arrived)
            try:
                await batcher.submit(flow.cost, cost=flow.cost, lane=flow.lane, deadline=arrived + flow.deadline_s)
            except ArgusError:
                return -(loop.time() - arrived)
            return loop.time() - arrived

        asked = zip(done.arrived_s.tolist(), done.flow.tolist(), strict=True)
        ends = await asyncio.gather(*(ask(arrived, flows[flow]) for arrived, flow in asked))
        await batcher.close()
        return ends

    return run_virtually(main())


def _simulate(
    flows: tuple[Flow, ...], limits: BatchLimits, fixed_s: float, cost_s: float, rate: float, seed: int, count: int
) -> Outcome:
    stage = made_up.stage(seconds=fixed_s, item_s=cost_s, limits=limits, preprocess_workers=1)
    return simulate(made_up.scenario(stage, flows=flows), poisson(rate, count, seed), seed=seed)


def _compare(
    flows: tuple[Flow, ...], limits: BatchLimits, fixed_s: float, cost_s: float, rate: float, seed: int
) -> None:
    done = _simulate(flows, limits, fixed_s, cost_s, rate, seed, 400)
    real = np.array(_serve(done, flows, limits, fixed_s, cost_s))
    simulated = np.where(done.ok, done.latency_s, -done.latency_s)
    apart = np.abs(real - simulated)
    first = int(np.argmax(apart > _CLOSE_S))
    assert (apart <= _CLOSE_S).all(), (
        f"request {first} at {done.arrived_s[first]:.6f}: {real[first]:.6f} for real, {simulated[first]:.6f} simulated"
    )


_ONE = (Flow(name="all", entry="clip"),)
_HURRIED = (Flow(name="all", entry="clip", deadline_s=0.12),)
_LANES = (
    Flow(name="image", entry="clip", share=0.6, lane="image", cost=3),
    Flow(name="text", entry="clip", share=0.4, lane="text", cost=1, deadline_s=0.3),
)


@pytest.mark.parametrize("load", [0.2, 0.7, 0.95, 1.5])
@pytest.mark.parametrize("wait_s", [0.0, 0.002, 0.5])
def test_batches_are_those_of_the_batcher(load: float, wait_s: float) -> None:
    limits = BatchLimits(max_items=8, max_wait_s=wait_s)
    _compare(_ONE, limits, 0.02, 0.002, load * 8 / 0.034, seed=3)


@pytest.mark.parametrize("load", [0.7, 1.3, 3.0])
def test_late_items_are_refused_when_the_batcher_refuses_them(load: float) -> None:
    limits = BatchLimits(max_items=8, max_wait_s=0.002)
    done = _simulate(_HURRIED, limits, 0.02, 0.002, load * 8 / 0.034, 4, 400)
    assert load < 1 or not done.ok.all(), "the case must refuse something"
    _compare(_HURRIED, limits, 0.02, 0.002, load * 8 / 0.034, seed=4)


@pytest.mark.parametrize("load", [0.5, 0.95, 2.0])
def test_lanes_and_costs_bound_batches_as_they_do_there(load: float) -> None:
    limits = BatchLimits(max_items=16, max_cost=12, max_wait_s=0.01)
    _compare(_LANES, limits, 0.02, 0.001, load * 12 / 2.2 / 0.032, seed=5)


def test_a_full_queue_refuses_the_same_items() -> None:
    limits = BatchLimits(max_items=4, max_wait_s=0, max_queue=6)
    done = _simulate(_ONE, limits, 0.05, 0.0, 200, 6, 400)
    assert 0.1 < done.ok.mean() < 0.9, "the case must refuse some and take some"
    _compare(_ONE, limits, 0.05, 0.0, 200, seed=6)


@settings(max_examples=40, deadline=None)
@given(
    max_items=st.integers(1, 12),
    max_cost=st.one_of(st.just(math.inf), st.floats(3, 30)),
    wait_s=st.sampled_from([0.0, 0.001, 0.02, 0.3]),
    max_queue=st.sampled_from([1, 5, 1024]),
    cost_s=st.sampled_from([0.0, 0.0007, 0.005]),
    rate=st.floats(5, 800),
    deadline_s=st.sampled_from([0.03, 0.1, 30.0]),
    seed=st.integers(0, 2**32),
)
def test_whatever_the_limits_both_batchers_agree(
    max_items: int,
    max_cost: float,
    wait_s: float,
    max_queue: int,
    cost_s: float,
    rate: float,
    deadline_s: float,
    seed: int,
) -> None:
    limits = BatchLimits(max_items=max_items, max_cost=max_cost, max_wait_s=wait_s, max_queue=max_queue)
    flows = (
        Flow(name="image", entry="clip", share=0.5, lane="image", cost=2.5),
        Flow(name="text", entry="clip", share=0.5, lane="text", cost=0.5, deadline_s=deadline_s),
    )
    _compare(flows, limits, 0.013, cost_s, rate, seed)
