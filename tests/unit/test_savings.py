"""What a cascade saves: the last step's usual price, for answers that were accepted before it."""

from __future__ import annotations

import pytest

from serve.calls import Usage
from serve.cascade.savings import Savings
from serve.cascade.types import Result, TraceEntry


def entry(step: str, result: Result, usd: float = 0.0, *, cached: bool = False) -> TraceEntry:
    return TraceEntry(step, "model", result, "", usage=Usage(usd=usd), cached=cached)


ACCEPTED = [entry("screen", "accepted")]


def escalated(usd: float, **more: bool) -> list[TraceEntry]:
    return [entry("screen", "went_on"), entry("hosted", "accepted", usd, **more)]


def test_nothing_is_claimed_before_a_price_is_known() -> None:
    assert Savings("hosted").ended(ACCEPTED) == 0


def test_an_answer_accepted_early_saves_what_the_last_step_cost() -> None:
    savings = Savings("hosted")
    assert savings.ended(escalated(0.02)) == 0
    assert savings.ended(ACCEPTED) == pytest.approx(0.02)
    assert savings.ended([entry("screen", "went_on"), entry("analyse", "accepted", 0.5)]) == pytest.approx(0.02)


def test_the_usual_price_follows_the_calls() -> None:
    savings = Savings("hosted")
    savings.ended(escalated(0.02))
    for _ in range(200):
        savings.ended(escalated(0.04))
    assert savings.usual_usd == pytest.approx(0.04, rel=0.01)
    savings.ended(escalated(0.0))
    assert savings.usual_usd == pytest.approx(0.038, rel=0.01), "one call moves it by a twentieth"


def test_what_came_from_the_cache_or_failed_says_nothing_of_the_price() -> None:
    savings = Savings("hosted")
    savings.ended(escalated(0.02))
    savings.ended(escalated(0.0, cached=True))
    assert savings.ended([entry("screen", "went_on"), entry("hosted", "failed")]) == 0
    assert savings.usual_usd == pytest.approx(0.02)


def test_who_got_no_accepted_answer_saved_nothing() -> None:
    savings = Savings("hosted")
    savings.ended(escalated(0.02))
    assert savings.ended([entry("screen", "failed")]) == 0
    assert savings.ended([entry("screen", "went_on"), entry("hosted", "skipped")]) == 0


def test_a_cascade_of_one_step_has_nothing_to_save() -> None:
    assert Savings("only").ended([entry("only", "accepted", 0.02)]) == 0
