"""Arrivals, their trend, and service curves: what the autoscaler reckons with."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.autoscaling.curve import MOST_ONGOING, Curve, Line, allowed_wait_s
from serve.autoscaling.rates import MOST_GROWTH, SLOT_S, Forecast, Series, forecast


def _counted(rates: list[float], step_s: float = 1.0, keep: int = 1000) -> Series:
    series = Series()
    for place, rate in enumerate(rates):
        series = series.added(rate * step_s, place * step_s, (place + 1) * step_s, keep)
    return series


@settings(max_examples=100, deadline=None)
@given(
    told=st.lists(st.tuples(st.floats(0, 100), st.floats(0.1, 15)), min_size=1, max_size=30),
    keep=st.integers(20, 40),
)
def test_nothing_that_was_counted_is_lost_or_twice(told: list[tuple[float, float]], keep: int) -> None:
    series, now = Series(), 7.3
    spans: list[tuple[float, float, float]] = []
    for count, seconds in told:
        series = series.added(count, now, now + seconds, keep)
        spans.append((count, now, now + seconds))
        now += seconds
    assert len(series.counts) <= keep
    oldest = series.first * SLOT_S
    kept = sum(count * max(0.0, end - max(begin, oldest)) / (end - begin) for count, begin, end in spans)
    assert sum(series.counts) == pytest.approx(kept, abs=1e-6)


def test_an_even_rate_has_no_trend() -> None:
    found = forecast(_counted([7.0] * 60), 0.0, 60.0, 60.0)
    assert found.level == pytest.approx(7.0)
    assert found.slope == 0.0
    assert found.after(300, 60.0) == pytest.approx(7.0)


def test_a_rise_is_followed_with_damping() -> None:
    found = forecast(_counted([100 + 2.0 * second for second in range(60)]), 0.0, 60.0, 60.0)
    assert found.slope == pytest.approx(2.0, rel=0.1)
    assert found.slope < 2.0, "less its standard error"
    near, far = found.after(10, 60.0), found.after(3600, 60.0)
    assert found.level < near < far <= found.level + 2.0 * 60, "a trend dies away"


def test_a_steep_rise_is_seen_before_most_of_the_window_knows_of_it() -> None:
    begun = [50.0] * 48 + [50.0 + 10.0 * second for second in range(12)]
    assert forecast(_counted(begun), 0.0, 60.0, 60.0).slope > 2.0
    assert forecast(_counted([50.0] * 60), 0.0, 60.0, 60.0).slope == 0.0


def test_falling_load_has_no_trend_either() -> None:
    assert forecast(_counted([200 - 2.0 * second for second in range(60)]), 0.0, 60.0, 60.0).slope == 0.0


def test_chance_is_not_taken_for_a_rise() -> None:
    """Of even load only the part of one standard error that is beyond it passes for a trend."""
    draws = np.random.default_rng(1).poisson(2.0, (400, 60)).astype(float)
    slopes = [forecast(_counted(list(row)), 0.0, 60.0, 60.0).slope for row in draws]
    assert np.mean(np.array(slopes) > 0) < 0.25
    assert np.mean(slopes) < 0.01 * 2.0


def test_nobody_expects_more_than_twice_what_was_seen() -> None:
    found = forecast(_counted([0.0] * 40 + [500.0] * 10), 0.0, 50.0, 60.0)
    assert found.after(600, 600.0) == MOST_GROWTH * found.level


def test_the_time_before_anything_was_counted_is_no_time_without_arrivals() -> None:
    series = Series().added(100.0, 1000.0, 1010.0, 50)
    assert forecast(series, 1000.0, 1010.0, 60.0).level == pytest.approx(10.0)
    assert forecast(series, 1000.0, 1010.0, 60.0).slope == 0.0


def test_what_fell_silent_is_expected_no_more() -> None:
    assert forecast(_counted([50.0] * 30), 0.0, 200.0, 60.0) == Forecast(0.0, 0.0)


def _learnt(line: Line, ongoing: list[float], calls: float = 50.0) -> Curve:
    curve = Curve()
    for n in ongoing:
        each = line.alone + line.each * n
        curve = curve.faded(2.0).seen(calls, calls * each, n)
    return curve


def test_a_curve_that_was_seen_at_many_loads_is_found() -> None:
    true = Line(0.3, 0.02)
    found = _learnt(true, [0.5, 2, 5, 9, 14, 11, 6, 3, 1] * 10).line(16)
    assert found is not None
    assert (found.alone, found.each) == (pytest.approx(0.3, rel=0.05), pytest.approx(0.02, rel=0.05))


def test_of_a_curve_that_was_seen_at_one_load_the_files_word_holds() -> None:
    """The file says: with `target_ongoing` in progress a call takes twice as long as alone."""
    found = _learnt(Line(0.4, 0.0), [1.0] * 20, calls=1.0).line(8)
    assert found is not None
    assert found.alone + found.each * 1.0 == pytest.approx(0.4, rel=0.02)
    assert found.each / found.alone == pytest.approx(1 / 8, rel=0.1)


def test_capacity_is_what_is_answered_within_the_wait_that_is_allowed() -> None:
    line = Line(0.3, 0.02)
    for wait_s in (0.05, 0.3, 1.0):
        rate = line.capacity(wait_s, 16)
        ongoing = rate * (0.3 + wait_s)  # Little
        assert line.alone + line.each * ongoing == pytest.approx(0.3 + wait_s)
    assert line.capacity(1e6, 1e9) == pytest.approx(1 / 0.02, rel=1e-3), "never more than its saturation"
    assert Line(0.3, 0.0).capacity(0.3, 16) == pytest.approx(MOST_ONGOING * 16 / 0.6), "nor than the file's bound"


def test_one_server_with_a_queue_is_used_as_m_m_1_says() -> None:
    """Service of 0.1 s: to wait 0.1 s on average it may be used to a half."""
    assert Line(0.1, 0.1).capacity(0.1, 16) == pytest.approx(0.5 / 0.1)


def test_half_as_long_again_is_allowed_where_nobody_says_how_long() -> None:
    assert allowed_wait_s(Line(0.4, 0.1), None) == 0.2
    assert allowed_wait_s(Line(0.001, 0.1), None) == 0.02
    assert allowed_wait_s(Line(0.4, 0.1), 0.1) == 0.1


@settings(max_examples=200, deadline=None)
@given(
    seen=st.lists(st.tuples(st.floats(0, 100), st.floats(0, 1000), st.floats(0, 500)), max_size=30),
    target=st.floats(0.5, 200),
)
def test_every_curve_has_a_capacity(seen: list[tuple[float, float, float]], target: float) -> None:
    curve = Curve()
    for calls, busy_s, ongoing in seen:
        curve = curve.faded(1.0).seen(calls, busy_s, ongoing)
    line = curve.line(target)
    if line is not None:
        assert line.alone > 0
        assert line.each >= 0
        assert 0 < line.capacity(allowed_wait_s(line, None), target) < float("inf")
