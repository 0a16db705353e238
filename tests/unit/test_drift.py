"""The drift test: how seldom it errs on an endless stream, how soon it notices, and that it can be moved."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.cascade.drift import DriftState, DriftTest


def _first_alarm(stream: np.ndarray, test: DriftTest) -> int | None:
    return next((i for i, error in enumerate(stream.tolist(), 1) if test.update(error)), None)


@pytest.mark.parametrize("rate", [0.05, 0.03])
def test_false_alarms_are_rarer_than_alpha(rate: float) -> None:
    """200 streams of 5,000 bits at or below the limit; at alpha 0.05, over 20 alarms have a chance below 0.1 %."""
    alarms = [
        _first_alarm(np.random.default_rng(seed).random(5000) < rate, DriftTest(0.05, 0.05)) for seed in range(200)
    ]
    assert sum(alarm is not None for alarm in alarms) <= 20


@given(st.lists(st.booleans(), max_size=12), st.sampled_from([0.02, 0.05, 0.3]))
def test_wealth_does_not_grow_on_average_while_errors_keep_to_the_limit(past: list[bool], limit: float) -> None:
    """The property that the bound rests on, exactly: E[next wealth | past] = wealth at the limit."""
    test = DriftTest(limit, 1e-6)
    for error in past:
        test.update(error)
    after = []
    for error in (True, False):
        one = DriftTest(limit, 1e-6, test.state)
        one.update(error)
        after.append(one.evidence)
    assert limit * after[0] + (1 - limit) * after[1] == pytest.approx(test.evidence)
    assert after[0] > after[1], "so a rate below the limit only loses"


def test_wealth_begins_at_one() -> None:
    assert DriftTest(0.05).evidence == 1.0


@pytest.mark.parametrize("good", [0, 5000])
def test_a_change_is_noticed_soon_whenever_it_comes(good: int) -> None:
    delays = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        stream = np.concatenate([rng.random(good) < 0.01, rng.random(2000) < 0.2])
        alarm = _first_alarm(stream, DriftTest(0.05, 0.01))
        assert alarm is not None
        delays.append(alarm - good)
    assert np.median(delays) < 200


def test_an_alarm_stays_until_the_test_begins_anew() -> None:
    test = DriftTest(0.05, 0.05)
    while not test.update(True):
        pass
    assert test.update(False)
    assert test.alarmed
    test.restart()
    assert not test.alarmed
    assert test.error_rate == 0.0


def test_a_state_goes_through_json_and_goes_on() -> None:
    rng = np.random.default_rng(0)
    first = DriftTest(0.05)
    for error in (rng.random(300) < 0.08).tolist():
        first.update(error)
    moved = DriftTest(0.05, state=DriftState.of(json.loads(json.dumps(first.state.record()))))
    assert moved.state == first.state
    for error in (rng.random(200) < 0.3).tolist():
        assert moved.update(error) == first.update(error)
    assert moved.evidence == first.evidence


def test_errors_without_end_stay_finite() -> None:
    test = DriftTest(0.001)
    for _ in range(5000):
        test.update(True)
    assert np.isfinite(test.evidence)
    assert test.error_rate == 1.0


def test_values_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="limit is 0"):
        DriftTest(0.0)
    with pytest.raises(ValueError, match="alpha is 1"):
        DriftTest(0.1, 1.0)
    with pytest.raises(ValueError, match="1 bets"):
        DriftTest(0.1, state=DriftState(0, 0, (0.0,), False))
