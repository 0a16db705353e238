"""Gears: up at once, down slowly and one by one, and what each costs by the calibration's curve."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.calibration.file import Calibration, CurvePoint, StepCalibration
from serve.cascade.gears import GearBox, price
from serve.config.cascades import Gear
from serve.resilience.load import Load

HOLD_S = 10.0
GEARS = (
    Gear(name="brisk", above_queue_wait_ms=50, above_requests_per_s=100, thresholds={"screen": 0.8}),
    Gear(name="fast", above_queue_wait_ms=200, thresholds={"screen": 0.6}),
    Gear(name="least", above_requests_per_s=500, thresholds={"screen": 0.2}),
)
IDLE = Load(0.0, 0.0)
LOADS = st.builds(Load, st.floats(0, 2), st.floats(0, 1000))
PAUSES = st.floats(0, 20)


def box(hold_s: float = HOLD_S) -> GearBox:
    return GearBox(GEARS, hold_s)


@pytest.mark.parametrize(
    ("load", "gear"),
    [
        (IDLE, 0),
        (Load(0.050, 100), 0),
        (Load(0.051, 0), 1),
        (Load(0.0, 101), 1),
        (Load(0.201, 0), 2),
        (Load(0.0, 501), 3),
        (Load(5.0, 5000), 3),
    ],
)
def test_up_at_once(load: Load, gear: int) -> None:
    assert box().shift(load, 0.0) == gear


def test_down_one_by_one_after_the_hold() -> None:
    gears = box()
    gears.shift(Load(1.0, 1000), 0.0)
    assert [gears.shift(IDLE, now) for now in (1.0, 10.9, 11.0, 20.9, 21.0, 31.0, 99.0)] == [3, 3, 2, 2, 1, 0, 0]


def test_a_wait_between_half_the_bound_and_the_bound_keeps_the_gear() -> None:
    gears = box()
    gears.shift(Load(0.3, 0), 0.0)
    for now in range(1, 100):
        assert gears.shift(Load(0.15, 0), float(now)) == 2
    assert gears.shift(Load(0.09, 0), 100.0) == 2
    assert gears.shift(Load(0.09, 0), 110.0) == 1


def test_the_hold_begins_anew_when_the_load_comes_back() -> None:
    gears = box()
    gears.shift(Load(0.3, 0), 0.0)
    gears.shift(IDLE, 1.0)
    gears.shift(Load(0.3, 0), 10.0)
    assert gears.shift(IDLE, 11.5) == 2
    assert gears.shift(IDLE, 21.4) == 2
    assert gears.shift(IDLE, 21.5) == 1


@pytest.mark.parametrize(("silent_s", "gear"), [(9.9, 3), (10.0, 2), (19.9, 2), (20.0, 1), (30.0, 0), (1e6, 0)])
def test_a_silence_counts_as_low_load_when_it_ends_with_one(silent_s: float, gear: int) -> None:
    gears = box()
    gears.shift(Load(1.0, 1000), 100.0)
    assert gears.shift(IDLE, 100.0 + silent_s) == gear


def test_a_silence_that_ends_with_a_high_load_leaves_only_what_that_does_not_ask_for() -> None:
    gears = box()
    gears.shift(Load(1.0, 1000), 0.0)
    assert gears.shift(Load(0.0, 200), 1000.0) == 1
    gears.shift(Load(0.3, 0), 1001.0)
    assert gears.shift(Load(0.15, 0), 2000.0) == 2, "a wait above half of its bound keeps a gear"


def test_two_steps_down_are_a_hold_apart_after_a_silence_too() -> None:
    gears = box()
    gears.shift(Load(1.0, 1000), 0.0)
    assert [gears.shift(IDLE, now) for now in (19.0, 20.0, 28.9, 29.0)] == [2, 2, 2, 1]


def test_without_a_hold_every_gear_is_left_as_soon_as_the_load_is_low() -> None:
    gears = box(hold_s=0.0)
    gears.shift(Load(1.0, 1000), 0.0)
    assert gears.shift(IDLE, 0.0) == 0


def test_without_gears_there_is_none() -> None:
    assert GearBox((), HOLD_S).shift(Load(9.0, 9000), 0.0) == 0


@given(st.lists(st.tuples(LOADS, PAUSES), max_size=80))
def test_never_down_faster_than_the_hold(steps: list[tuple[Load, float]]) -> None:
    gears, now, last_down, last_up = box(), 0.0, -HOLD_S, -HOLD_S
    for load, pause in steps:
        now += pause
        before = gears.gear
        after = gears.shift(load, now)
        if after > before:
            last_up = now
        elif after < before:
            assert now - max(last_down, last_up) >= (before - after) * HOLD_S
            last_down = now


@given(LOADS, LOADS)
def test_more_load_never_means_a_lower_gear(one: Load, more: Load) -> None:
    higher = Load(max(one.queue_wait_s, more.queue_wait_s), max(one.arrivals_per_s, more.arrivals_per_s))
    assert box().shift(one, 0.0) <= box().shift(higher, 0.0)


@given(st.lists(st.tuples(LOADS, PAUSES), max_size=40))
def test_never_below_what_the_load_asks_for(steps: list[tuple[Load, float]]) -> None:
    gears, now = box(), 0.0
    for load, pause in steps:
        now += pause
        assert gears.shift(load, now) >= box().shift(load, now)


@given(st.lists(st.tuples(LOADS, PAUSES), max_size=40))
def test_silence_brings_the_top_gear_back(steps: list[tuple[Load, float]]) -> None:
    gears, now = box(), 0.0
    for load, pause in steps:
        now += pause
        gears.shift(load, now)
    for number in range(1 + len(GEARS)):
        gears.shift(IDLE, now + number * 1.01 * HOLD_S)
    assert gears.gear == 0


CURVE = (
    CurvePoint(threshold=0.95, accepted=0.3, agreement=1.0, lower=0.98),
    CurvePoint(threshold=0.9, accepted=0.6, agreement=0.99, lower=0.97),
    CurvePoint(threshold=0.7, accepted=0.8, agreement=0.95, lower=0.93),
    CurvePoint(threshold=0.5, accepted=0.9, agreement=0.9, lower=0.87),
)


def calibration(threshold: float = 0.9) -> Calibration:
    step = StepCalibration(
        checkpoint="demo:clip",
        temperature=1.0,
        threshold=threshold,
        target=0.97,
        confidence=0.95,
        samples=1000,
        labels_used=500,
        ece_before=0.1,
        ece_after=0.02,
        curve=CURVE,
    )
    return Calibration(cascade="moderation", made=date(2026, 1, 1), steps={"screen": step})


@pytest.mark.parametrize(
    ("threshold", "accepted", "lower", "measured"),
    [
        (0.95, 0.3, 0.98, True),
        (0.9, 0.6, 0.97, True),
        (0.8, 0.8, 0.93, True),  # between two points: the one at which more is accepted
        (0.5, 0.9, 0.87, True),
        (0.3, 0.9, 0.87, False),
        (1.0, 0.3, 0.98, True),
    ],
)
def test_the_price_is_read_from_the_curve(threshold: float, accepted: float, lower: float, measured: bool) -> None:
    gear = Gear(name="fast", above_queue_wait_ms=100, thresholds={"screen": threshold})
    found = price(gear, calibration())
    assert found.gear == "fast"
    assert found.accepted == accepted
    assert found.agreement_lower == lower
    (step,) = found.steps
    assert step.measured is measured
    assert step.usually_accepted == 0.6
    assert step.target == 0.97


def test_a_step_that_could_not_be_certified_usually_accepts_nothing() -> None:
    (step,) = price(GEARS[0], calibration(threshold=1.01)).steps
    assert step.usually_accepted == 0.0


def test_without_evidence_the_price_is_unknown() -> None:
    gear = Gear(name="fast", above_queue_wait_ms=100, thresholds={"screen": 0.5, "analyse": 0.4})
    assert price(gear, None).unknown == ("screen", "analyse")
    assert price(gear, None).agreement_lower is None
    assert price(gear, calibration()).unknown == ("analyse",)


def test_a_gear_that_changes_no_threshold_has_no_price() -> None:
    found = price(Gear(name="short", above_queue_wait_ms=100, max_tokens=8), calibration())
    assert (found.steps, found.unknown, found.accepted, found.agreement_lower) == ((), (), None, None)


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_lower_threshold_never_accepts_less(one: float, other: float) -> None:
    low, high = sorted((one, other))

    def accepted(threshold: float) -> float:
        gear = Gear(name="g", above_queue_wait_ms=1, thresholds={"screen": threshold})
        found = price(gear, calibration()).accepted
        assert found is not None
        return found

    assert accepted(low) >= accepted(high)
