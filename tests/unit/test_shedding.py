"""Whom to turn away: the cut, the places, and the decision, each from its arguments alone."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from serve.config.overload import PRIORITIES, Overload, Priority
from serve.resilience.shedding import Arrival, Cut, Rule, decide, enough, moved, places, position

RULE = Rule.of(Overload())
TARGET = RULE.target_s
QUIET = [0.0, 0.0, 0.0]
BUSY = [1.0, 1.0, 1.0]
SPOTS = st.floats(0, 1, exclude_max=True)
LEVELS = st.floats(0, 2.95)
WAITS = st.lists(st.floats(0, 10), min_size=3, max_size=3)


def driven(cut: Cut, waits_s: list[float], seconds: float) -> Cut:
    """The cut after so long with the same waits, looked at ten times a second."""
    start = cut.since
    for tick in range(1, round(seconds * 10) + 1):
        cut = moved(cut, waits_s, RULE, start + tick / 10)
    return cut


def arrival(priority: Priority = "normal", spot: float = 0.5, *, left_s: float = 30.0, limit: int = 100) -> Arrival:
    return Arrival(priority, spot, limit, left_s)


def test_up_fast_and_down_slowly() -> None:
    assert driven(Cut(0.0, 0.0), BUSY, 0.5).level == pytest.approx(1.0)
    up = driven(Cut(0.0, 0.0), BUSY, 1.0)
    assert up.level == pytest.approx(2.0)
    assert driven(up, QUIET, 0.5).level == pytest.approx(2.0 - 0.25 * 0.625)
    assert driven(up, QUIET, 1.0).level == pytest.approx(2.0 - 0.25 * 1.5)
    assert driven(up, QUIET, 3.3).level == 0.0


def test_calm_must_last_to_count() -> None:
    cut = driven(driven(Cut(2.0, 0.0), QUIET, 2.0), [1.2 * TARGET] * 3, 0.1)
    assert cut.calm_s == 0
    assert driven(cut, QUIET, 0.5).level == pytest.approx(cut.level - 0.25 * 0.625)


@pytest.mark.parametrize(("wait", "direction"), [(0.5, -1), (0.99, -1), (1.0, 0), (1.01, 1), (3.0, 1)])
def test_it_moves_towards_the_target(wait: float, direction: int) -> None:
    cut = Cut(0.5, 10.0)
    change = moved(cut, [wait * TARGET] * 3, RULE, 10.1).level - cut.level
    assert (change > 0) - (change < 0) == direction


def test_the_top_class_is_cut_only_for_waits_of_its_own() -> None:
    # The others, whose last calls still queue, wait for a long time; the highest class does not.
    assert driven(Cut(0.0, 0.0), [TARGET / 2, 5.0, 5.0], 60.0).level <= 2.0
    # When it alone is more than the models can do, some of it is shed, never all.
    assert 2.5 < driven(Cut(0.0, 0.0), BUSY, 60.0).level < 3.0


@pytest.mark.parametrize(
    ("arrivals", "served", "wait", "level"),
    [
        ((6, 16, 30), 20, 0.0, 1 - 4 / 14),  # of the lowest class, what is left beside the others
        ((6, 16, 30), 10, 0.0, 1 + 6 / 10),
        ((6, 16, 30), 3, 0.0, 2 + 3 / 6),
        ((6, 16, 30), 40, 0.0, 0.0),
        ((6, 16, 30), 20, 0.75, 1 + 6 / 10),  # half of what is served, so that the queue drains
        ((6, 16, 30), 20, 1e6, 1 + 6 / 10),
        ((0, 0, 30), 20, 0.0, 1 / 3),
        ((6, 16, 30), 0, 0.0, 2.95),
        ((0, 0, 0), 0, 0.0, 0.0),
    ],
)
def test_enough_is_what_brings_arrivals_below_what_is_served(
    arrivals: tuple[float, ...], served: float, wait: float, level: float
) -> None:
    assert enough(arrivals, served, wait) == pytest.approx(level)


def test_the_cut_rises_no_further_than_is_enough() -> None:
    cut = Cut(0.0, 0.0)
    for tick in range(1, 100):
        cut = moved(cut, BUSY, RULE, tick / 10, most=1.3)
    assert cut.level == 1.3
    assert moved(cut, BUSY, RULE, 10.0, most=0.4).level == 0.4


def test_one_look_never_enters_the_next_class() -> None:
    assert moved(Cut(0.99, 0.0), BUSY, RULE, 1000.0).level == 1.0


def test_after_a_pause_an_old_signal_moves_little_up_and_all_the_way_down() -> None:
    assert moved(Cut(0.0, 0.0), BUSY, RULE, 1000.0).level == pytest.approx(0.5)
    assert moved(Cut(2.9, 0.0), QUIET, RULE, 1000.0).level == 0.0


def test_a_clock_that_goes_back_changes_nothing() -> None:
    assert moved(Cut(0.7, 10.0), BUSY, RULE, 9.0) == Cut(0.7, 10.0)
    assert moved(Cut(0.7, 10.0, 2.0), QUIET, RULE, 9.0) == Cut(0.7, 10.0, 2.0)


@given(LEVELS, WAITS, st.floats(0, 1000))
def test_a_cut_stays_within_bounds(level: float, waits: list[float], passed: float) -> None:
    cut = moved(Cut(level, 0.0), waits, RULE, passed)
    assert 0 <= cut.level < 3
    assert cut.since == passed


@given(LEVELS, SPOTS, SPOTS)
def test_no_class_is_shed_while_a_lower_one_gets_in(level: float, spot: float, other: float) -> None:
    cut = Cut(level, 0.0)
    for higher, lower in pairwise(PRIORITIES):
        if decide(arrival(higher, spot), cut, 0.0, 1, RULE) is not None:
            assert decide(arrival(lower, other), cut, 0.0, 1, RULE) is not None


@pytest.mark.parametrize(
    ("level", "admitted"),
    [
        (0.0, (1, 1, 1)),
        (0.25, (1, 1, 0.75)),
        (1.0, (1, 1, 0)),
        (1.5, (1, 0.5, 0)),
        (2.0, (1, 0, 0)),
        (2.9, (0.1, 0, 0)),
    ],
)
def test_the_level_is_the_share_of_each_class(level: float, admitted: tuple[float, ...]) -> None:
    spots = [(i + 0.5) / 1000 for i in range(1000)]
    for priority, share in zip(PRIORITIES, admitted, strict=True):
        let_in = sum(decide(arrival(priority, spot), Cut(level, 0.0), 0.0, 1, RULE) is None for spot in spots)
        assert let_in / 1000 == pytest.approx(share, abs=0.002)


@given(LEVELS, LEVELS, SPOTS, st.sampled_from(PRIORITIES))
def test_who_gets_in_under_more_load_gets_in_under_less(a: float, b: float, spot: float, priority: Priority) -> None:
    assume(a <= b)
    if decide(arrival(priority, spot), Cut(b, 0.0), 0.0, 1, RULE) is None:
        assert decide(arrival(priority, spot), Cut(a, 0.0), 0.0, 1, RULE) is None


def test_an_idle_router_lets_everyone_in() -> None:
    assert decide(arrival("low", 0.0, left_s=0.001), Cut(2.9, 0.0), 10.0, 0, RULE) is None


def test_what_cannot_be_answered_in_time_is_refused_early() -> None:
    assert decide(arrival(left_s=0.6), Cut(0.0, 0.0), 0.5, 3, RULE) is None
    shed = decide(arrival(left_s=0.4), Cut(0.0, 0.0), 0.5, 3, RULE)
    assert shed is not None
    assert shed.reason == "deadline"


def test_full_is_full_for_every_class() -> None:
    shed = decide(arrival("high", limit=5), Cut(0.0, 0.0), 0.0, 5, RULE)
    assert shed is not None
    assert shed.reason == "places"


@pytest.mark.parametrize(
    ("limit", "higher", "expected"),
    [(100, 2, (100, 90, 80)), (100, 1, (100, 90, 90)), (100, 0, (100, 100, 100)), (1, 2, (1, 1, 1)), (4, 2, (4, 4, 3))],
)
def test_places_are_kept_for_higher_classes_that_somebody_uses(
    limit: int, higher: int, expected: tuple[int, ...]
) -> None:
    assert tuple(places(priority, limit, 0.1, higher) for priority in PRIORITIES) == expected


@given(st.integers(1, 10_000), st.floats(0, 0.4), st.integers(0, 2))
def test_places_rise_with_the_class(limit: int, reserved: float, higher: int) -> None:
    found = [places(priority, limit, reserved, higher) for priority in PRIORITIES]
    assert found == sorted(found, reverse=True)
    assert found[0] == limit
    assert found[-1] >= 1


def test_retry_after_is_when_the_cut_will_have_passed() -> None:
    for level in (0.4, 1.0, 2.0, 2.9):
        shed = decide(arrival("low", 0.0), Cut(level, 0.0), 0.0, 1, RULE)
        assert shed is not None
        assert 1 <= shed.retry_after_s < 10
        later = moved(Cut(level, 0.0), QUIET, RULE, shed.retry_after_s)
        assert decide(arrival("low", 0.0), later, 0.0, 1, RULE) is None


@given(LEVELS, st.floats(0, 1e6), SPOTS, st.sampled_from(PRIORITIES))
def test_retry_after_is_bounded(level: float, wait: float, spot: float, priority: Priority) -> None:
    shed = decide(arrival(priority, spot, left_s=0.0), Cut(level, 0.0), wait, 1, RULE)
    if shed is not None:
        assert 1 <= shed.retry_after_s <= 60


@given(SPOTS, SPOTS)
def test_positions_order_classes_before_spots(one: float, other: float) -> None:
    for higher, lower in pairwise(PRIORITIES):
        assert position(higher, one) >= position(lower, other)


def test_letting_in_again_must_not_be_faster_than_shedding() -> None:
    with pytest.raises(ValueError, match="relax_per_s is 3, rise_per_s is 2"):
        Overload(relax_per_s=3)
