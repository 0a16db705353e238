"""The load signal: what it shows of arrivals and waits, on a clock of the test's own."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.resilience.load import LONG_S, SHORT_S, Load, LoadSignal

SECONDS = st.floats(0, 100, allow_nan=False)


def steady(rate_per_s: float, seconds: float, wait_s: float = 0.0) -> LoadSignal:
    """A signal that has seen even arrivals from 0 to `seconds`, each with the same wait."""
    signal = LoadSignal(0.0)
    for number in range(round(rate_per_s * seconds)):
        now = (number + 1) / rate_per_s
        signal.arrived(now)
        signal.waited(wait_s, now)
    return signal


def test_nothing_has_come_yet() -> None:
    assert LoadSignal(5.0).snapshot(7.0) == Load(0.0, 0.0)


@pytest.mark.parametrize("rate", [2.0, 50.0, 400.0])
def test_a_steady_rate_is_shown_as_it_is(rate: float) -> None:
    signal = steady(rate, 60.0)
    # Right after an arrival the sum stands up to one arrival's weight too high.
    assert signal.snapshot(60.0).arrivals_per_s == pytest.approx(rate, abs=0.6 / SHORT_S)


@pytest.mark.parametrize("rate", [2.0, 50.0])
def test_waits_are_averaged_whatever_the_rate(rate: float) -> None:
    assert steady(rate, 20.0, wait_s=0.25).snapshot(20.0).queue_wait_s == pytest.approx(0.25)


def test_a_burst_counts_within_a_second() -> None:
    signal = steady(10.0, 30.0)
    for number in range(100):
        signal.arrived(30.0 + number / 100)
    assert signal.snapshot(31.0).arrivals_per_s > 60


def test_a_pause_does_not_hide_the_rate_at_once() -> None:
    signal = steady(100.0, 60.0)
    assert signal.snapshot(62.0).arrivals_per_s == pytest.approx(100 * math.exp(-2 / LONG_S), rel=0.02)


def test_waits_of_now_replace_those_of_a_second_ago() -> None:
    signal = steady(50.0, 20.0, wait_s=1.0)
    for number in range(60):
        signal.waited(0.0, 20.0 + (number + 1) / 50)
    assert signal.snapshot(21.2).queue_wait_s == 0.0


def test_half_a_window_of_each_is_the_mean_of_both() -> None:
    signal = LoadSignal(0.0)
    for tenth in range(10):
        signal.waited(0.5 if tenth < 5 else 0.1, 10.05 + tenth / 10)
    assert signal.snapshot(10.96).queue_wait_s == pytest.approx(0.3)


def test_silence_ends_in_no_load() -> None:
    load = steady(200.0, 30.0, wait_s=3.0).snapshot(130.0)
    assert load.queue_wait_s == 0
    assert load.arrivals_per_s < 0.1


def test_a_clock_that_goes_back_changes_nothing() -> None:
    signal = steady(10.0, 5.0, wait_s=0.1)
    before = signal.snapshot(5.0)
    assert signal.snapshot(1.0) == before


@given(st.lists(st.tuples(st.booleans(), SECONDS, SECONDS), max_size=60))
def test_never_outside_what_was_reported(events: list[tuple[bool, float, float]]) -> None:
    signal, now, waits, arrivals = LoadSignal(0.0), 0.0, [0.0], 0
    for arrives, wait, pause in events:
        now += pause
        if arrives:
            signal.arrived(now)
            arrivals += 1
        else:
            signal.waited(wait, now)
            waits.append(wait)
    load = signal.snapshot(now)
    assert 0 <= load.queue_wait_s <= max(waits) * (1 + 1e-9)
    assert 0 <= load.arrivals_per_s <= arrivals / SHORT_S


@pytest.mark.parametrize("pause_s", [0.0, 0.5, 8.0])
@given(st.lists(st.integers(0, 300), min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_many_at_once_are_as_one_after_the_other(pause_s: float, counts: list[int], seed: int) -> None:
    """Also when times go back a little, and after pauses in which one memory of arrivals outlives the other."""
    draw = np.random.default_rng(seed)
    single, many, now = LoadSignal(0.0), LoadSignal(0.0), 0.0
    for count in counts:
        times = now + np.sort(draw.uniform(0, 1.5, count)) - draw.choice([0.0, 0.3], count)
        waits = draw.uniform(0, 1, count)
        for time, seconds in zip(times.tolist(), waits.tolist(), strict=True):
            single.arrived(time)
            single.waited(seconds, time)
        many.arrived_at(times)
        many.waited_at(waits, times)
        now += 1.5
        for later in (now, now + pause_s):
            one, other = single.snapshot(later), many.snapshot(later)
            assert other.queue_wait_s == pytest.approx(one.queue_wait_s)
            assert other.arrivals_per_s == pytest.approx(one.arrivals_per_s)
        now += pause_s
