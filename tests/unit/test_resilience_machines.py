"""The guard's state machines: breaker, gradient, retry budget, hedge allowance, rates. No clock runs here."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.config.resilience import Breaker as Rules
from serve.resilience.breaker import Breaker
from serve.resilience.gradient import Gradient
from serve.resilience.hedge import Allowance, Times
from serve.resilience.rates import Rate, Rates, take
from serve.resilience.retry_budget import RetryBudget
from tests.unit.resilience_fakes import Clock

RULES = Rules(window_s=10, min_calls=4, failure_rate=0.5, slow_call_s=1, slow_rate=0.75, open_s=5, probes=2)


def call(breaker: Breaker, now: float, *, ok: bool = True, seconds: float = 0.1) -> bool:
    """One call; whether it was let pass."""
    ticket = breaker.admit(now)
    if ticket is None:
        return False
    if ok:
        breaker.succeeded(ticket, seconds, now)
    else:
        breaker.failed(ticket, now)
    return True


def opened(now: float = 0.0) -> Breaker:
    breaker = Breaker(RULES)
    for _ in range(4):
        call(breaker, now, ok=False)
    assert breaker.state(now) == "open"
    return breaker


def test_it_opens_at_its_failure_rate_and_not_before_enough_calls() -> None:
    breaker = Breaker(RULES)
    for _ in range(3):
        assert call(breaker, 0.0, ok=False)
    assert breaker.state(0.0) == "closed"
    call(breaker, 0.0, ok=True)
    assert breaker.state(0.0) == "open"
    assert not call(breaker, 4.9)
    assert breaker.wait_s(4.0) == pytest.approx(1.0)


def test_failures_in_a_row_open_it_however_well_it_was() -> None:
    breaker = Breaker(RULES)
    for _ in range(100):
        call(breaker, 0.0)
    for _ in range(4):
        call(breaker, 0.0, ok=False)
    call(breaker, 0.0)
    for _ in range(4):
        call(breaker, 0.0, ok=False)
    assert breaker.state(0.0) == "closed"
    call(breaker, 0.0, ok=False)
    assert breaker.state(0.0) == "open"


def test_slow_calls_open_it_as_well() -> None:
    breaker = Breaker(RULES)
    for seconds in (0.1, 1.0, 2.0):
        call(breaker, 0.0, seconds=seconds)
    assert breaker.state(0.0) == "closed"
    call(breaker, 0.0, seconds=3.0)
    assert breaker.state(0.0) == "open"


def test_what_left_the_window_is_forgotten() -> None:
    breaker = Breaker(RULES)
    for _ in range(3):
        call(breaker, 0.0, ok=False)
    for now in (11.0, 11.1, 11.2):
        call(breaker, now, ok=True)
    call(breaker, 11.3, ok=False)
    assert breaker.state(11.3) == "closed"


def test_as_many_probes_as_asked_close_it_and_one_failure_opens_it_again() -> None:
    breaker = opened()
    assert breaker.state(5.0) == "half_open"
    first, second = breaker.admit(5.0), breaker.admit(5.0)
    assert first is not None
    assert second is not None
    assert breaker.admit(5.0) is None
    breaker.succeeded(first, 0.1, 5.1)
    assert breaker.state(5.1) == "half_open"
    breaker.succeeded(second, 0.1, 5.1)
    assert breaker.state(5.1) == "closed"
    again = opened()
    call(again, 5.0, ok=False)
    assert again.state(9.9) == "open"
    assert again.state(10.0) == "half_open"


def test_a_cancelled_probe_gives_its_place_back() -> None:
    breaker = opened()
    tickets = [breaker.admit(5.0), breaker.admit(5.0)]
    assert breaker.admit(5.0) is None
    assert tickets[0] is not None
    breaker.abandoned(tickets[0])
    assert breaker.admit(5.0) is not None


def test_calls_from_before_it_opened_say_nothing_of_the_probes() -> None:
    breaker = Breaker(RULES)
    old = [breaker.admit(0.0) for _ in range(3)]
    for _ in range(4):
        call(breaker, 0.0, ok=False)
    for ticket in old:
        assert ticket is not None
    breaker.succeeded(old[0] or 0, 0.1, 5.0)
    breaker.failed(old[1] or 0, 5.0)
    breaker.abandoned(old[2] or 0)
    assert breaker.state(5.0) == "half_open"
    assert [breaker.admit(5.0) is None for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize(("asked", "rest"), [(7.0, 7.0), (None, 1.0), (1e9, 60.0)])
def test_a_429_asks_for_a_rest_that_is_kept_up_to_a_bound(asked: float | None, rest: float) -> None:
    breaker = Breaker(RULES)
    ticket = breaker.admit(0.0)
    assert ticket is not None
    breaker.rate_limited(ticket, asked, 0.0)
    assert breaker.resting
    assert breaker.state(rest - 0.01) == "resting"
    assert breaker.state(rest) == "half_open"
    for _ in range(2):
        call(breaker, rest)
    assert not breaker.resting
    assert breaker.state(rest) == "closed"


def test_without_rests_a_429_is_an_answer() -> None:
    breaker = Breaker(RULES.model_copy(update={"max_cool_down_s": 0.0}))
    for _ in range(10):
        ticket = breaker.admit(0.0)
        assert ticket is not None
        breaker.rate_limited(ticket, 5.0, 0.0)
    assert breaker.state(0.0) == "closed"


@given(st.lists(st.tuples(st.floats(0, 4), st.sampled_from(["ok", "slow", "bad", "429", "gone", "keep"])), max_size=80))
def test_whatever_happens_it_lets_calls_pass_again(steps: list[tuple[float, str]]) -> None:
    """No history leaves it shut: once open calls have ended and its time is over, it probes; successes close it."""
    breaker, now, kept = Breaker(RULES), 0.0, []
    for wait, what in steps:
        now += wait
        ticket = breaker.admit(now)
        assert (ticket is None) == (breaker.state(now) in ("open", "resting")) or breaker.state(now) == "half_open"
        if ticket is None:
            continue
        if what == "429":
            breaker.rate_limited(ticket, 2.0, now)
        elif what == "gone":
            breaker.abandoned(ticket)
        elif what == "keep":
            kept.append(ticket)
        elif what == "bad":
            breaker.failed(ticket, now)
        else:
            breaker.succeeded(ticket, 2.0 if what == "slow" else 0.1, now)
    for ticket in kept:
        breaker.abandoned(ticket)
    now += 100
    for _ in range(RULES.probes):
        assert call(breaker, now)
    assert breaker.state(now) == "closed"


def window(gradient: Gradient, seconds: float, in_flight: int | None = None) -> None:
    """As many calls as are judged together."""
    busy = gradient.limit if in_flight is None else in_flight
    for _ in range(max(10, -(-gradient.limit // 2))):
        gradient.succeeded(seconds, busy)


def test_the_limit_grows_while_times_stay_and_shrinks_when_they_rise() -> None:
    gradient = Gradient(2, 20, 100)
    for _ in range(50):
        window(gradient, 0.1)
    grown = gradient.limit
    assert grown > 40
    for _ in range(20):
        window(gradient, 1.0)
    assert gradient.limit < grown / 2
    for _ in range(200):
        window(gradient, 0.1)
    assert gradient.limit == 100


def test_few_calls_show_nothing_about_the_limit() -> None:
    gradient = Gradient(2, 20, 100)
    for _ in range(50):
        window(gradient, 0.1, in_flight=9)
    assert gradient.limit == 20
    assert gradient.usual_s == pytest.approx(0.1)


def test_one_long_answer_among_short_ones_does_not_move_it() -> None:
    gradient = Gradient(2, 20, 100)
    for number in range(40 * 10):
        gradient.succeeded(1.0 if number % 10 == 0 else 0.1, gradient.limit)
    assert gradient.limit >= 40


@given(
    st.lists(st.tuples(st.sampled_from(["ok", "drop"]), st.floats(0, 1e4), st.integers(1, 300)), max_size=200),
    st.integers(1, 10),
    st.integers(0, 50),
    st.integers(0, 100),
)
def test_the_limit_keeps_within_its_bounds(
    steps: list[tuple[str, float, int]], least: int, more: int, room: int
) -> None:
    gradient = Gradient(least, least + more, least + more + room)
    for what, seconds, in_flight in steps:
        before = gradient.limit
        if what == "drop":
            gradient.dropped()
            assert gradient.limit <= before
        else:
            gradient.succeeded(seconds, in_flight)
        assert least <= gradient.limit <= least + more + room


def test_the_limit_finds_the_room_of_a_simulated_target() -> None:
    """A target that serves 30 at once in 0.1 s and queues the others: the limit stops growing where they queue."""
    gradient = Gradient(2, 10, 500)
    rng = random.Random(1)
    limits = []
    for _ in range(20_000):
        in_flight = gradient.limit
        gradient.succeeded(0.1 * max(1.0, in_flight / 30) * rng.uniform(0.9, 1.1), in_flight)
        limits.append(gradient.limit)
    assert min(limits[3_000:]) >= 30
    assert max(limits[:8_000]) <= 90


@given(st.integers(0, 400), st.floats(0, 1), st.floats(0, 20))
def test_retries_stay_within_share_and_floor(calls: int, share: float, floor: float) -> None:
    budget = RetryBudget(share, floor)
    for _ in range(calls):
        budget.called(0.0)
    taken = sum(budget.take(0.5) for _ in range(1_000))
    assert taken == pytest.approx(min(1_000, calls * share + floor * 10), abs=1.01)


def test_deposits_expire_and_the_floor_comes_back() -> None:
    budget = RetryBudget(0.5, 0.1)
    for _ in range(10):
        budget.called(0.0)
    assert [budget.take(9.0) for _ in range(7)] == [True] * 6 + [False]
    assert not budget.take(10.5)
    assert budget.take(19.5)
    assert not budget.take(19.6)


@given(st.integers(0, 2_000), st.floats(0.01, 0.5))
def test_hedges_never_pass_their_share(calls: int, share: float) -> None:
    allowance = Allowance(share)
    taken = 0
    for _ in range(calls):
        allowance.called()
        taken += allowance.take()
    assert taken <= calls * share + 1e-6
    assert taken >= int(calls * share) - 1


def test_a_quiet_time_saves_up_a_few_hedges_only() -> None:
    allowance = Allowance(0.05)
    for _ in range(10_000):
        allowance.called()
    assert sum(allowance.take() for _ in range(100)) == 2


def test_late_is_the_measured_quantile_of_recent_times() -> None:
    times = Times(0.95)
    for number in range(1, 1_001):
        times.add(number / 1_000)
    assert times.late_s() == pytest.approx(0.95, rel=0.07)
    for _ in range(2_500):
        times.add(5.0)
    assert times.late_s() == pytest.approx(5.0, rel=0.03)
    assert times.count <= 2_000


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(1, 8)), max_size=60), st.integers(1, 20))
def test_no_minute_takes_more_than_a_minutes_amount_and_what_flows_in(
    steps: list[tuple[float, int]], per_minute: int
) -> None:
    full_at, now, taken = 0.0, 0.0, 0
    for wait, units in steps:
        now += wait
        after, missing = take(full_at, Rate("r", per_minute, min(units, per_minute)), now)
        if missing <= 1e-9:
            full_at = after
            taken += min(units, per_minute)
        else:  # and just when it says, it fits
            assert take(full_at, Rate("r", per_minute, min(units, per_minute)), now + missing)[1] <= 1e-6
    assert taken <= per_minute + now * per_minute / 60 + 1e-6


async def test_rates_are_taken_together_or_not_at_all() -> None:
    clock = Clock()
    rates = Rates(None, 1, clock)
    for _ in range(2):
        assert await rates.take(Rate("calls", 2, 1), Rate("tokens", 100, 10)) == 0
    assert await rates.take(Rate("calls", 2, 1), Rate("tokens", 100, 80)) == pytest.approx(30)
    assert await rates.take(Rate("tokens", 100, 80)) == 0
    assert await rates.take(Rate("tokens", 100, 1)) == pytest.approx(0.6)
    await rates.adjust(Rate("tokens", 100, -50))
    assert await rates.take(Rate("tokens", 100, 50)) == 0
    await rates.adjust(Rate("tokens", 100, 100))
    assert await rates.take(Rate("tokens", 100, 1)) == pytest.approx(60.6)
    clock.now += 200
    assert await rates.take(Rate("tokens", 100, 500)) == 0
    assert await rates.take(Rate("tokens", 100, 1)) > 200


async def test_replicas_share_a_rate_by_parts() -> None:
    rates = Rates(None, 4, Clock())
    assert [await rates.take(Rate("calls", 8, 1)) for _ in range(3)] == [0, 0, pytest.approx(30)]
