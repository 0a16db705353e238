"""One target: how long its attempts may last, and what their ends say of it. Its clock is moved by the test."""

from __future__ import annotations

import asyncio

import pytest

from serve.config.resilience import Resilience
from serve.errors import ArgusError, DeadlineExceeded, RateLimited, Unavailable
from serve.resilience.purse import Purse
from serve.resilience.rates import Rates
from serve.resilience.settings import settings_of
from serve.resilience.target import AttemptFailed, Passage, Target
from tests.unit.resilience_fakes import Clock, Remembers, context

DAY_S = 86_400.0


class Simulated:
    """A provider whose calls take as long as the test says."""

    def __init__(self) -> None:
        self.clock = Clock()
        settings = settings_of(Resilience(), "p", ours=False)
        self.target = Target(
            settings, Rates(None, 1, self.clock), Remembers(), lambda seconds, usual_s: None, self.clock
        )

    async def way_in(self, fallback: bool) -> Passage:
        stake = await Purse(None, "a", 0).stake()
        return await self.target.passage(stake, context(left_s=DAY_S), 0, fallback)

    async def call(self, takes_s: float, *, fallback: bool = True) -> bool:
        """Whether the call was answered; one that is refused or given up was not."""
        self.clock.now += 0.01
        try:
            with await self.way_in(fallback) as passage:
                timeout_s = self.target.attempt_s(DAY_S, fallback)
                with self.target.attempt(passage, timeout_s):
                    self.clock.now += min(takes_s, timeout_s)
                    if takes_s > timeout_s:
                        raise DeadlineExceeded("late")
        except (AttemptFailed, Unavailable):
            return False
        return True


async def test_an_attempt_has_the_time_that_calls_take_only_where_another_way_waits() -> None:
    calls = Simulated()
    assert calls.target.attempt_s(1_000, True) == 60
    for _ in range(30):
        await calls.call(0.1)
    assert calls.target.attempt_s(1_000, True) == pytest.approx(0.2, rel=0.05)
    assert calls.target.attempt_s(1_000, False) == 60
    assert calls.target.attempt_s(0.05, True) == 0.05


@pytest.mark.parametrize(
    ("error", "states"),
    [
        (RateLimited("slow down", retry_after_s=0.05), ["resting", "half_open"]),
        (Unavailable("away"), ["open", "half_open"]),
    ],
)
async def test_the_end_of_a_pause_is_told_without_another_call(error: ArgusError, states: list[str]) -> None:
    rules = Resilience.model_validate({"targets": {"p": {"breaker": {"open_s": 0.1, "failures_in_a_row": 1}}}})
    recorder = Remembers()
    target = Target(settings_of(rules, "p", ours=False), Rates(None, 1), recorder, lambda seconds, usual_s: None)
    stake = await Purse(None, "a", 0).stake()
    with pytest.raises(AttemptFailed), await target.passage(stake, context(), 0, True) as passage:  # noqa: SIM117
        with target.attempt(passage, 10):
            raise error
    for _ in range(1_000):
        if recorder.states == states:
            break
        await asyncio.sleep(0.01)
    assert recorder.states == states


async def test_a_target_that_became_slower_for_good_is_believed_in_the_end() -> None:
    calls = Simulated()
    for _ in range(1_000):
        assert await calls.call(0.1)
    calls.clock.now += 100
    answered = []
    for _ in range(400):
        answered.append(await calls.call(1.0))
        if not answered[-1]:
            calls.clock.now += 5
    assert not any(answered[:10])
    assert all(answered[-100:])


async def test_a_target_that_hangs_stays_given_up_and_its_time_stays_bounded() -> None:
    calls = Simulated()
    for _ in range(1_000):
        await calls.call(0.1)
    calls.clock.now += 100
    for _ in range(10):
        assert not await calls.call(DAY_S)
    assert calls.target.attempt_s(DAY_S, True) <= 0.3
    for _ in range(200):
        calls.clock.now += 11
        assert not await calls.call(DAY_S)
    assert calls.target.attempt_s(DAY_S, True) <= 60


async def test_who_had_too_little_time_shows_nothing() -> None:
    calls = Simulated()
    for _ in range(30):
        await calls.call(0.1)
    calls.clock.now += 100
    for _ in range(20):
        with (
            await calls.way_in(True) as passage,
            pytest.raises(AttemptFailed),
            calls.target.attempt(passage, 0.05),
        ):
            raise DeadlineExceeded("late")
    assert calls.target.well
    assert await calls.call(0.1)
