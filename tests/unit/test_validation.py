"""Predicted against measured: what is compared, and with what."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.capacity.comparison import capacity_per_s, compare, pooled, predict
from benchmarks.capacity.outcome import Float64, Outcome
from benchmarks.traffic.arrivals import Poisson


def run(latencies: Float64, *, warm_up: int = 0, seconds: float = 10.0, ok: bool = True, path: str = "a") -> Outcome:
    """Requests evenly over the window, `warm_up` more before it."""
    count = len(latencies)
    due = np.concatenate([np.zeros(warm_up), 1.0 + np.linspace(0, seconds, count, endpoint=False)])
    everything = np.concatenate([np.full(warm_up, 99.0), latencies])
    total = count + warm_up
    return Outcome(
        due,
        everything,
        np.full(total, ok),
        np.zeros(total, np.int16),
        (path,),
        np.zeros(total),
        np.zeros(total, np.int16),
        ("f",),
        1.0,
        1.0 + seconds,
    )


def test_runs_are_pooled_request_by_request() -> None:
    """The P99 of all requests is not the mean of the runs' P99."""
    calm, slow = run(np.full(900, 0.1), warm_up=50), run(np.full(100, 1.0), warm_up=50, path="b")
    both = pooled([calm, slow]).summary()
    assert both.requests == 1000, "warm-up is left out"
    assert both.done_per_s == pytest.approx(50)
    assert (both.p50_s, both.p99_s) == (0.1, 1.0)
    assert both.path_share == {"a": pytest.approx(0.9), "b": pytest.approx(0.1)}


def test_runs_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="alike"):
        pooled([run(np.ones(5)), run(np.ones(5), seconds=20)])
    with pytest.raises(ValueError, match="there must be one"):
        pooled([])


def test_errors_are_relative_to_what_was_measured() -> None:
    measured = [run(np.full(100, 0.1)), run(np.full(100, 0.3))]
    found = {one.name: one for one in compare(measured, [run(np.full(100, 0.25))])}
    assert found["mean"].measured == pytest.approx(0.2)
    assert found["mean"].error == pytest.approx(0.25)
    assert found["mean"].spread == pytest.approx(1.0)
    assert found["throughput"].error == pytest.approx(0)


def test_nothing_measured_is_no_agreement() -> None:
    found = {one.name: one for one in compare([run(np.full(10, 0.1), ok=False)], [run(np.full(10, 0.1))])}
    assert math.isnan(found["mean"].error) and math.isnan(found["throughput"].error)


def test_a_prediction_meets_the_requests_at_their_own_times() -> None:
    asked: list[tuple[Float64, float, float | None, int]] = []

    def simulate(scenario: object, times: Float64, *, seed: int, start_s: float, end_s: float) -> Outcome:
        asked.append((times, start_s, end_s, seed))
        return run(np.full(len(times), 0.1))

    real = run(np.full(20, 0.1), warm_up=3)
    predict(None, real, seed=7, simulate=simulate, draws=4)  # type: ignore[arg-type]
    assert len({seed for *_, seed in asked}) == 4
    for times, start, end, _ in asked:
        assert np.array_equal(times, real.arrived_s)
        assert (start, end) == (real.start_s, real.end_s)


@pytest.mark.parametrize("rate", [3.0, 40.0, 700.0])
def test_the_capacity_of_a_server_is_the_rate_at_which_it_works(rate: float) -> None:
    """One server that takes 1/rate seconds for each request, in order."""

    def simulate(scenario: object, times: Float64, *, seed: int, end_s: float) -> Outcome:
        ends, free = np.empty_like(times), 0.0
        for place, at in enumerate(times):
            free = ends[place] = max(free, at) + 1 / rate
        count = len(times)
        zeros = np.zeros(count, np.int16)
        return Outcome(
            times, ends - times, np.ones(count, np.bool_), zeros, ("a",), np.zeros(count), zeros, ("f",), 0.0, end_s
        )

    found = capacity_per_s(None, Poisson(rate_per_s=1), simulate=simulate)  # type: ignore[arg-type]
    assert found == pytest.approx(rate, rel=0.15)
