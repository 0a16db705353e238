"""The planner's closed forms against brute force: envelopes, least rates, Inoue's bound, confidence."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from benchmarks.capacity.outcome import Outcome
from benchmarks.capacity.planner import queueing
from benchmarks.capacity.planner.catalogue import bought
from benchmarks.capacity.planner.confidence import clopper_pearson, upper_mean, upper_share
from benchmarks.capacity.planner.envelope import envelope, late_share, least_rate, rate_within, windows
from benchmarks.capacity.planner.objectives import Objective, findings
from tests.unit.planner_cases import encoder, engine

TIMES = st.lists(st.floats(0, 20, allow_nan=False), min_size=1, max_size=60).map(lambda times: np.array(sorted(times)))


@given(TIMES, st.floats(0.01, 10))
def test_envelope_is_the_most_in_any_window(times: np.ndarray, length: float) -> None:
    most = max(int(((times >= start) & (times < start + length)).sum()) for start in times)
    assert envelope(times, np.array([length]))[0] == most


def test_windows_grow_from_below_the_delay_to_beyond_the_run() -> None:
    lengths = windows(0.1, 60)
    assert lengths[0] == pytest.approx(0.01)
    assert np.allclose(lengths[1:] / lengths[:-1], 1.1)
    assert lengths[-1] >= 60


@settings(max_examples=60)
@given(TIMES, st.floats(0.05, 30))
def test_nothing_is_late_at_the_rate_that_the_envelope_asks(times: np.ndarray, delay: float) -> None:
    rate = rate_within(times, windows(delay, 20), delay)
    assert late_share(times, rate * (1 + 1e-6), delay) == 0
    # And it does not ask for much more than that: a step of the windows, and what lies below the first.
    assert rate <= 1.25 * max(least_rate(times, delay, 0.0), len(times) / (20 + delay), 1 / delay)


def test_as_many_at_once_are_done_within_the_delay() -> None:
    assert rate_within(np.zeros(10), windows(0.1, 60), 0.1) == pytest.approx(100)


def _fluid(times: np.ndarray, rate: float, within: float) -> float:
    """As `late_share`, written from its words: leave out whoever would end too late."""
    free, late = 0.0, 0
    for due in times:
        end = max(free, due) + 1 / rate
        if end > due + within:
            late += 1
        else:
            free = end
    return late / len(times)


@given(TIMES, st.floats(0.5, 20), st.floats(0.05, 5))
def test_late_share(times: np.ndarray, rate: float, within: float) -> None:
    share, apart = late_share(times, rate, within), 1e-6  # an end at the limit to the last bit is on either side of it
    assert _fluid(times, rate, within + apart) <= share <= _fluid(times, rate, within - apart)


def test_whoever_ends_at_the_limit_is_not_late() -> None:
    assert late_share(np.array([1.0, 8.0]), 20, 0.05) == 0


@settings(max_examples=50)
@given(TIMES, st.floats(0.05, 5), st.floats(0, 0.5))
def test_least_rate_is_where_the_share_is_met(times: np.ndarray, within: float, allowed: float) -> None:
    rate = least_rate(times, within, allowed)
    assert late_share(times, rate * 1.002 + 1e-9, within) <= allowed
    assert late_share(times, rate * 0.97, within) > allowed or rate <= 1 / within * 1.001


def test_least_rate_of_nothing_to_bound() -> None:
    assert least_rate(np.array([1.0, 2.0]), 0.0, 0.01) == math.inf
    assert least_rate(np.array([1.0, 2.0]), 0.0, 1.0) == 0
    assert least_rate(np.array([]), 1.0, 0.0) == 0


def _mean_response(service: queueing.BatchService, rate: float, requests: int) -> float:
    """A greedy batch queue with Poisson arrivals, event by event."""
    times = np.cumsum(np.random.default_rng(3).exponential(1 / rate, requests))
    free, first, waited = 0.0, 0, 0.0
    while first < requests:
        begin = max(free, times[first])
        last = min(int(np.searchsorted(times, begin, "right")), first + service.max_items)
        free = begin + service.seconds(last - first)
        waited += float((free - times[first:last]).sum())
        first = last
    return waited / requests


@pytest.mark.parametrize("load", [0.1, 0.5, 0.8])
@pytest.mark.parametrize(("item_s", "pass_s"), [(0.005, 0.010), (0.001, 0.020), (0.010, 0.002)])
def test_inoues_bound_holds_and_is_close(load: float, item_s: float, pass_s: float) -> None:
    """arXiv 1912.06322: the bound stands a few per cent above the mean of the simulated queue."""
    service = queueing.BatchService(item_s, pass_s, max_items=100_000)
    rate = load / item_s
    bound = service.mean_response_bound(rate)
    mean = _mean_response(service, rate, 100_000)
    assert mean * 0.98 <= bound <= mean * 1.10


def test_inoues_bound_of_an_idle_and_of_an_overloaded_queue() -> None:
    service = queueing.BatchService(0.005, 0.010, max_items=16)
    assert service.mean_response_bound(1e-9) == pytest.approx(0.015)
    assert service.mean_response_bound(service.capacity_per_s * 1.01) == math.inf


@pytest.mark.parametrize("max_items", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("load", [0.02, 0.1, 0.3, 0.6, 0.9])
def test_inoues_bound_is_used_only_where_the_limit_on_batches_hardly_matters(max_items: int, load: float) -> None:
    service = queueing.BatchService(0.001, 0.020, max_items)
    rate = load * service.capacity_per_s
    mean = _mean_response(service, rate, 50_000)
    assert not service.rarely_full(rate) or mean <= 1.01 * service.mean_response_bound(rate)
    assert service.rarely_full(rate) or load > 0.02 or max_items == 1


def test_inoues_bound_is_none_where_batches_are_often_full() -> None:
    service = queueing.BatchService(0.001, 0.020, max_items=2)
    rate = 0.9 * service.capacity_per_s
    assert _mean_response(service, rate, 50_000) > 1.5 * service.mean_response_bound(rate)
    assert not service.rarely_full(rate)


def test_fit_finds_the_line() -> None:
    fitted = queueing.fit(encoder(0.004, 0.010).forward, 16)
    assert fitted.item_s == pytest.approx(0.004)
    assert fitted.pass_s == pytest.approx(0.010)
    assert fitted.capacity_per_s == pytest.approx(16 / 0.074)


def test_forward_seconds_between_and_beyond_what_was_measured() -> None:
    forward = encoder(0.004, 0.010).forward
    assert queueing.forward_seconds(forward, 3) == pytest.approx(0.022)
    assert queueing.forward_seconds(forward, 64) == pytest.approx(2 * (32 * 0.004 + 0.010))


def test_an_engine_runs_as_many_as_its_cache_holds() -> None:
    generation = engine(0.01, kv_tokens=500).generation
    assert generation is not None
    assert queueing.concurrency(generation, 64, prompt=90, output=10) == 5
    assert queueing.concurrency(generation, 3, prompt=90, output=10) == 3


def test_an_engines_time_is_shared_but_for_encoding_and_prefill() -> None:
    generation = engine(0.01).generation
    assert generation is not None
    alone = queueing.engine_seconds(generation, 1, prompt=100, output=10, images=1)
    beside = queueing.engine_seconds(generation, 10, prompt=100, output=10, images=1)
    assert alone == pytest.approx(0.01 + 0.01 + 10 * (0.0002 + 0.01))
    assert beside == pytest.approx(0.01 + 0.01 + 10 * (0.0002 + 0.001))
    assert queueing.engine_response(generation, prompt=100, output=10, images=1) == pytest.approx(alone)


def test_clopper_pearson_is_scipys() -> None:
    exact = stats.binomtest(3, 200, alternative="less").proportion_ci(0.95, method="exact").high
    assert clopper_pearson(3, 200, 0.95) == pytest.approx(exact)
    assert clopper_pearson(0, 100, 0.95) == pytest.approx(1 - 0.05 ** (1 / 100))
    assert clopper_pearson(5, 5, 0.95) == 1


def test_a_confidence_of_one_half_is_the_middle() -> None:
    with np.errstate(all="raise"):
        bound = upper_share(np.full(20, 10.0), np.full(20, 1000.0), 0.5)
    assert 0.0099 < bound < 0.0102


def test_misses_that_come_together_prove_less() -> None:
    requests = np.full(20, 1000.0)
    even = upper_share(np.full(20, 10.0), requests, 0.95)
    together = np.zeros(20)
    together[:2] = 100.0
    assert even < 0.013
    assert upper_share(together, requests, 0.95) > 1.5 * even
    assert upper_share(np.zeros(0), np.zeros(0), 0.95) == 1


def test_the_bound_of_a_share_covers_it() -> None:
    """Blocks whose miss rate varies: at 95 % confidence the true share is below the bound in about 95 % of cases."""
    draw = np.random.default_rng(5)
    true, covered, rounds = 0.02, 0, 400
    for _ in range(rounds):
        shares = draw.gamma(0.5, true / 0.5, 20)
        misses = draw.binomial(500, np.minimum(shares, 1)).astype(float)
        covered += upper_share(misses, np.full(20, 500.0), 0.95) >= true
    assert covered / rounds > 0.88  # gamma with shape 1/2 is far from normal; independent trials would cover 60 %


def _held_share(*, clumped: bool) -> float:
    """How often a p99.9 that is missed by a fifth is said to hold, of 300 plans of 20 blocks of 1,000 requests.

    Latencies of a block have a level in common, as in a burst: a few blocks have all of the late requests.
    """
    draw = np.random.default_rng(11)
    levels = draw.lognormal(0, 0.8 if clumped else 0.0, (4000, 1))
    everything = levels * draw.lognormal(0, 0.3, (4000, 1000))
    objective = Objective(quantile=0.999, seconds=float(np.quantile(everything, 1 - 0.0012)))
    held = 0
    for _ in range(300):
        blocks = everything[draw.integers(0, 4000, 20)].reshape(5, -1)
        count = blocks.shape[1]
        runs = [
            Outcome(
                arrived_s=np.linspace(0, 99.99, count),
                latency_s=latency,
                ok=np.ones(count, bool),
                path=np.zeros(count, np.int16),
                paths=("only",),
                usd=np.zeros(count),
                flow=np.zeros(count, np.int16),
                flows=("a",),
                start_s=0.0,
                end_s=100.0,
            )
            for latency in blocks
        ]
        held += findings([objective], runs, 0.95)[0].held
    return held / 300


def test_late_requests_that_come_together_are_not_proven_absent_by_runs_without_them() -> None:
    """Without the tail's own design effect, runs in which no miss fell would prove as much as independent requests."""
    assert _held_share(clumped=True) <= 0.12
    assert _held_share(clumped=False) <= 0.05


def test_no_misses_prove_less_where_the_tail_comes_together() -> None:
    requests, none = np.full(20, 1000.0), np.zeros(20)
    even = upper_share(none, requests, 0.95, slow=np.full(20, 5.0))
    clumped = np.zeros(20)
    clumped[:2] = 50.0
    assert even == pytest.approx(3 / 20_000, rel=0.2)
    assert upper_share(none, requests, 0.95, slow=clumped) > 10 * even


def test_the_bound_of_a_mean_covers_it() -> None:
    draw = np.random.default_rng(6)
    covered = sum(
        upper_mean(draw.exponential(2.0, (20, 50)).sum(axis=1), np.full(20, 50.0), 0.95) >= 2.0 for _ in range(400)
    )
    assert 0.92 <= covered / 400 <= 0.99
    assert math.isnan(upper_mean(np.zeros(0), np.zeros(0), 0.95))


@pytest.mark.parametrize("working", [1, 3, 10])
def test_spare_nodes_for_availability(working: int) -> None:
    count = bought(working, 0.95, 0.999)
    assert stats.binom.sf(working - 1, count, 0.95) >= 0.999 > stats.binom.sf(working - 1, count - 1, 0.95)
    assert bought(working, 1.0, 0.999) == working
    assert bought(0, 0.9, 0.999) == 0


def test_nodes_that_are_hardly_ever_up_are_counted_without_counting_up_to_them() -> None:
    assert bought(2, 1e-6, 0.99) == pytest.approx(6.638e6, rel=0.01)
