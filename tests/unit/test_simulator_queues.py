"""The simulator against queueing theory, and what must hold in every run."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.capacity.planner.queueing import BatchService
from benchmarks.capacity.profiles import PROBABILITIES, Distribution
from benchmarks.capacity.scenario import Flow, Scenario
from benchmarks.capacity.simulator import simulate
from benchmarks.capacity.simulator.draws import CELLS, table
from benchmarks.simulator import (
    batch_stage,
    cascade,
    constant,
    erlang_response_s,
    exponential_pool,
    one_stage,
    poisson,
    speeds,
)
from deployments.batching import BatchLimits
from tests.support import made_up

_COUNT = 400_000


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_one_server_with_exponential_service(load: float) -> None:
    mean_s = exponential_pool(1, 0.01, load, _COUNT, seed=1).summary().mean_s
    assert mean_s == pytest.approx(0.01 / (1 - load), rel=0.02)


@pytest.mark.parametrize("servers", [2, 4])
def test_several_servers_with_one_queue(servers: int) -> None:
    mean_s = exponential_pool(servers, 0.01, 0.7, _COUNT, seed=2).summary().mean_s
    assert mean_s == pytest.approx(erlang_response_s(servers, 0.7, 0.01), rel=0.02)


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_service_that_is_always_as_long(load: float) -> None:
    done = simulate(one_stage(constant(0.01), max_items=1), poisson(load / 0.01, _COUNT, 3), seed=3)
    assert done.summary().mean_s == pytest.approx(0.01 * (1 + load / (2 * (1 - load))), rel=0.02)


def test_a_server_is_woken_as_often_as_arrivals_find_it_idle() -> None:
    """M/D/1 with an exceptional first service (Welch 1964): idle for (1 - rho) / (1 + rate * what is exceptional)."""
    rate, each_s, wake_s = 100.0, 0.004, 0.002
    costs = made_up.router().model_copy(update={"ingress_cpu_s": each_s, "ingress_wake_s": wake_s})
    made = made_up.scenario(made_up.stage(seconds=0.0), router=costs, cores=100.0)
    done = simulate(made, poisson(rate, _COUNT, 5), seed=5)
    assert done.woken["ingress"] / _COUNT == pytest.approx((1 - rate * each_s) / (1 + rate * wake_s), rel=0.01)


@pytest.mark.parametrize("cores", [0.0, 4.0])
def test_waking_is_a_part_of_what_a_request_takes_alone_and_saved_where_requests_meet(cores: float) -> None:
    def made(wake_s: float) -> Scenario:
        profile = made_up.model(made_up.passes((1, 0.01), (64, 0.01))).model_copy(
            update={"overhead": constant(0.004), "cpu_s": 0.001, "wake_s": wake_s}
        )
        costs = made_up.router(0.002).model_copy(update={"latency": constant(0.008), "wake_s": wake_s})
        return made_up.scenario(made_up.stage(profile=profile), router=costs, cores=cores)

    rare = np.arange(1.0, 20.0)
    alone = simulate(made(0.001), rare, seed=6)
    assert alone.latency_s == pytest.approx(simulate(made(0.0), rare, seed=6).latency_s)
    assert alone.woken["router"] == alone.woken["replica"] == 2 * len(rare)
    crowd = simulate(made(0.001), poisson(300, 3000, 6), seed=6)
    assert crowd.ok.all()
    assert crowd.woken["router"] < 1.5 * 3000


@pytest.mark.parametrize("load", [0.2, 0.5, 0.8])
def test_batches_stay_below_the_bound_of_batch_service_and_near_it(load: float) -> None:
    batches = BatchService(0.005, 0.01, 100_000)
    rate = load / batches.item_s
    mean_s = simulate(batch_stage(batches), poisson(rate, _COUNT, 4), seed=4).summary().mean_s
    bound = batches.mean_response_bound(rate)
    assert 0.9 * bound < mean_s < 1.02 * bound


def test_a_lone_request_takes_the_sum_of_its_parts() -> None:
    stage = made_up.stage(profile=made_up.model(made_up.passes((1, 0.01)), preprocess_s=0.003, overhead_s=0.004))
    done = simulate(made_up.scenario(stage, router=made_up.router(0.002, 0.0005)), np.array([1.0]), seed=1)
    assert done.latency_s[0] == pytest.approx(0.01 + 0.003 + 0.004 + 0.002)
    assert done.ok.all()


def test_the_router_serves_no_more_than_its_processor_time_allows() -> None:
    stage = made_up.stage(seconds=1e-6, replicas=8)
    times = poisson(2000, 20_000, 5)
    done = simulate(made_up.scenario(stage, router=made_up.router(0.001, 0.001)), times, seed=5)
    last = (done.arrived_s + done.latency_s).max()
    assert 20_000 / last == pytest.approx(1000, rel=0.01), "1 ms of processor time each: 1,000 a second"


def test_what_a_model_costs_the_router_counts_as_well() -> None:
    profile = made_up.model(made_up.passes((1, 1e-6))).model_copy(update={"router_cpu_s": 0.003})
    stage = made_up.stage(profile=profile, replicas=8)
    done = simulate(made_up.scenario(stage, router=made_up.router(0.001, 0.001)), poisson(2000, 8000, 5), seed=5)
    assert 8000 / (done.arrived_s + done.latency_s).max() == pytest.approx(250, rel=0.01)


def test_shared_cores_make_work_longer_and_lose_none() -> None:
    profile = made_up.model(made_up.passes((1, 0.01))).model_copy(update={"cores": 1.0})
    stages = [made_up.stage(f"m{n}", profile=profile) for n in range(4)]
    flows = tuple(Flow(name=one.name, entry=one.name, share=0.25) for one in stages)
    # All at once: four passes of one core each on two cores take twice as long.
    times = np.zeros(64)
    alone = simulate(made_up.scenario(*stages, flows=flows), times, seed=6)
    shared = simulate(made_up.scenario(*stages, flows=flows, cores=2.0), times, seed=6)
    assert set(alone.flow) == {0, 1, 2, 3}
    assert shared.latency_s.max() == pytest.approx(2 * alone.latency_s.max(), rel=0.01)
    roomy = simulate(made_up.scenario(*stages, flows=flows, cores=8.0), times, seed=6)
    assert np.sort(roomy.latency_s) == pytest.approx(np.sort(alone.latency_s))


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
@pytest.mark.parametrize(
    ("threads", "cores", "left_empty"),
    [(1, 2.0, 0.0), (2, 2.0, 0.5), (3, 2.0, 0.25), (4, 2.0, 0.125), (2, 1.0, 0.0), (3, 4.0, 4 * 0.75**3 - 1)],
)
def test_cores_are_left_empty_as_when_threads_are_put_on_them_by_chance(
    threads: int, cores: float, left_empty: float, share: float
) -> None:
    """Balls in bins: of c cores, c * (1 - 1/c)^n have none of n threads; those that n cannot fill do not count."""
    profile = made_up.model(made_up.passes((1, 0.01))).model_copy(update={"cores": float(threads), "imbalance": share})
    done = simulate(made_up.scenario(made_up.stage(profile=profile), cores=cores), np.zeros(1), seed=6)
    assert done.latency_s == pytest.approx(0.01 * threads / (min(threads, cores) - share * left_empty))


def test_the_imbalance_of_several_models_is_that_of_their_work() -> None:
    """Twice as many requests with passes three times as long count six times as much."""

    def made(*shares: float) -> Scenario:
        models = [made_up.model(made_up.passes((1, seconds))) for seconds in (0.01, 0.03)]
        stages = [
            made_up.stage(f"m{number}", profile=model.model_copy(update={"imbalance": share, "cores": 2.0}))
            for number, (model, share) in enumerate(zip(models, shares, strict=True))
        ]
        flows = (Flow(name="few", entry="m0", share=1 / 3), Flow(name="many", entry="m1", share=2 / 3))
        return made_up.scenario(*stages, flows=flows, cores=2.0)

    times = np.arange(200) * 10.0
    apart, together = made(0.0, 0.7), made(0.6, 0.6)
    assert simulate(apart, times, seed=1).latency_s == pytest.approx(simulate(together, times, seed=1).latency_s)


def test_work_goes_at_the_pace_of_its_second() -> None:
    profile = made_up.model(made_up.passes((1, 0.4))).model_copy(update={"cores": 1.0})
    made = made_up.scenario(made_up.stage(profile=profile), cores=2.0)
    times = np.array([0.1, 1.1, 2.9, 4.1])
    ran = simulate(made, times, seed=7, paces=np.array([1.0, 2.0, 1.0, 2.0]))
    # The third has a tenth of a second at 1 and the rest at 2; the last pace holds for what follows.
    assert ran.latency_s == pytest.approx([0.4, 0.8, 0.1 + 2 * 0.3, 0.8], rel=1e-3)
    assert np.array_equal(
        simulate(made, times, seed=7).latency_s, simulate(made, times, seed=7, paces=np.ones(9)).latency_s
    )


def test_more_replicas_never_wait_longer_in_the_mean() -> None:
    times, limits = poisson(300, 20_000, 8), BatchLimits(max_items=1, max_queue=2**20)
    means = [
        simulate(made_up.scenario(made_up.stage(seconds=0.003, replicas=n, limits=limits)), times, seed=8)
        .summary()
        .mean_s
        for n in (1, 2, 4, 8)
    ]
    assert means == sorted(means, reverse=True)


@settings(max_examples=25, deadline=None)
@given(
    rate=st.floats(20, 1500),
    handed_on=st.floats(0, 1),
    queue=st.sampled_from([1, 16, 1024]),
    places=st.sampled_from([4, 256]),
    deadline_s=st.sampled_from([0.05, 0.4, 30.0]),
    seed=st.integers(0, 2**40),
)
def test_every_request_ends_exactly_once(
    rate: float, handed_on: float, queue: int, places: int, deadline_s: float, seed: int
) -> None:
    made = cascade(handed_on)
    stages = {name: replace(one, limits=replace(one.limits, max_queue=queue)) for name, one in made.stages.items()}
    flows = tuple(flow.model_copy(update={"deadline_s": deadline_s}) for flow in made.flows)
    made = replace(made, stages=stages, flows=flows, router_places=places)
    done = simulate(made, poisson(rate, 1500, seed % 1000), seed=seed)
    assert np.isfinite(done.latency_s).all(), "each has an end"
    assert (done.latency_s >= 0).all()
    assert ((done.path >= 0) == done.ok).all(), "who is answered is answered by a step, and nobody else is"
    # The answer still has to be written once the time is up.
    assert (done.latency_s <= deadline_s + 0.05).all()


def test_the_same_seed_gives_the_same_run_and_another_does_not() -> None:
    times = poisson(300, 3000, 9)
    one, same, other = (simulate(cascade(), times, seed=seed) for seed in (1, 1, 2))
    assert (one.latency_s == same.latency_s).all()
    assert (one.path == same.path).all()
    assert (one.path != other.path).any()


def test_draws_belong_to_requests_whatever_else_changes() -> None:
    times = poisson(100, 5000, 10)
    few, many = (simulate(cascade(clips=clips), times, seed=1) for clips in (4, 8))
    assert (few.path == many.path).all(), "the same requests are handed on"
    less, more = (simulate(cascade(handed_on), times, seed=1) for handed_on in (0.05, 0.1))
    assert set(np.flatnonzero(less.path == 1)) <= set(np.flatnonzero(more.path == 1))


def test_pools_grow_when_many_requests_are_in_progress() -> None:
    stage = made_up.stage(seconds=0.001, limits=BatchLimits(max_items=32, max_queue=2**20))
    done = simulate(made_up.scenario(stage), np.full(50_000, 1.0), seed=1)
    assert done.ok.all()
    assert done.stages["clip"].mean_batch == pytest.approx(32, rel=0.05)


def test_the_benchmark_tells_its_speed() -> None:
    (row,) = speeds(3000, seed=1)
    assert row["requests_per_s"] == pytest.approx(1000 * row["times_real"], rel=0.1), "1,000 requests a second"


def test_nothing_arrives() -> None:
    done = simulate(made_up.scenario(made_up.stage()), np.zeros(0), seed=1, end_s=10.0)
    assert done.summary().requests == 0


@pytest.mark.parametrize(
    ("times", "message"),
    [([2.0, 1.0], "rise"), ([-1.0, 1.0], "rise"), ([1.0, math.inf], "finite"), ([math.nan], "rise")],
)
def test_arrivals_that_are_none_are_refused(times: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        simulate(made_up.scenario(made_up.stage()), np.array(times), seed=1)


def test_a_window_and_tokens_must_fit() -> None:
    made = made_up.scenario(made_up.stage())
    with pytest.raises(ValueError, match="empty"):
        simulate(made, np.array([1.0]), seed=1, start_s=5, end_s=5)
    with pytest.raises(ValueError, match="tokens"):
        simulate(made, np.array([1.0, 2.0]), seed=1, tokens=(np.ones(1, np.int32), np.ones(1, np.int32)))


@pytest.mark.parametrize(
    ("tail", "mean"),
    [(0.1, 0.0052), (1.0, 0.0055), (10.0, 0.006), (0.006, 0.00505)],
    ids=["short", "long", "far", "none"],
)
def test_a_table_has_the_mean_and_the_quantiles_that_were_measured(tail: float, mean: float) -> None:
    seconds = (0.004, 0.0041, 0.0042, 0.0043, 0.0046, 0.005, 0.0054, 0.0056, 0.0057, 0.0059, tail)
    found = table(Distribution(seconds=seconds, mean=mean, samples=500))
    assert float((found[:-1] + found[1:]).mean() / 2) == pytest.approx(mean)
    assert (np.diff(found) >= 0).all()
    for probability, quantile in zip(PROBABILITIES[1:-1], seconds[1:-1], strict=True):
        assert found[round(probability * CELLS)] == pytest.approx(quantile, rel=0.03)
