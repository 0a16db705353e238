"""Money: reserved, settled, bounded, and counted against its owner when nobody knows."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.errors import BudgetExceeded
from serve.resilience.budget import ALL, Budget
from serve.resilience.purse import Purse
from tests.unit.resilience_fakes import Clock, Remembers

DAY_S = 86_400.0


def budget(
    most: float | None = None, tenants: dict[str, float | None] | None = None, replicas: int = 1
) -> tuple[Budget, Clock, Remembers]:
    clock, recorder = Clock(10 * DAY_S + 3_600), Remembers()
    return Budget(most, tenants or {}, None, replicas, recorder, clock), clock, recorder


async def test_a_tenant_spends_what_it_has_until_the_end_of_the_day() -> None:
    money, clock, recorder = budget(None, {"a": 1.0, "default": 0.5})
    held = await money.reserve("a", 0.7)
    with pytest.raises(BudgetExceeded, match="the budget of a") as caught:
        await money.reserve("a", 0.4)
    assert caught.value.retry_after_s == pytest.approx(DAY_S - 3_600)
    await money.settle(held, 0.1)
    assert recorder.left["a"] == pytest.approx(0.9)
    await money.reserve("a", 0.9)
    with pytest.raises(BudgetExceeded, match="the budget of b"):
        await money.reserve("b", 0.51)
    clock.now += DAY_S
    await money.reserve("a", 1.0)


async def test_all_together_have_a_budget_and_nothing_is_taken_by_a_refusal() -> None:
    money, _, recorder = budget(1.0, {"a": 0.8})
    await money.reserve("a", 0.6)
    with pytest.raises(BudgetExceeded, match="all tenants") as everyones:
        await money.reserve("b", 0.5)
    with pytest.raises(BudgetExceeded, match="the budget of a") as own:
        await money.reserve("a", 0.3)
    assert (everyones.value.code, everyones.value.fault) == ("service_budget_exceeded", "server")
    assert (own.value.code, own.value.fault) == ("budget_exceeded", "client")
    await money.reserve("b", 0.4)
    assert recorder.left == {"a": pytest.approx(0.2), ALL: pytest.approx(0.0)}


async def test_replicas_without_redis_have_a_part_each() -> None:
    money, _, _ = budget(1.0, replicas=4)
    await money.reserve("a", 0.25)
    with pytest.raises(BudgetExceeded):
        await money.reserve("a", 0.01)


async def test_each_replica_tells_its_part_at_the_start() -> None:
    money, _, recorder = budget(1.0, {"a": 0.8, "default": 0.5, "free": None}, replicas=4)
    money.start()
    assert recorder.told == {
        (ALL, "replica"): (pytest.approx(0.25), pytest.approx(0.25)),
        ("a", "replica"): (pytest.approx(0.2), pytest.approx(0.2)),
    }
    await money.reserve("b", 0.1)
    assert recorder.told["b", "replica"] == (pytest.approx(0.025), pytest.approx(0.125))


async def test_at_midnight_all_of_it_is_told_to_be_there() -> None:
    money, clock, recorder = budget(1.0, {"a": 0.8})
    clock.now = 11 * DAY_S - 0.05
    await money.reserve("a", 0.6)
    clock.now += 0.1
    for _ in range(1000):
        if recorder.left == {"a": pytest.approx(0.8), ALL: pytest.approx(1.0)}:
            break
        await asyncio.sleep(0.01)
    else:
        raise AssertionError(recorder.left)
    await money.reserve("a", 0.8)


async def test_what_is_settled_after_midnight_is_yesterdays() -> None:
    money, clock, _ = budget(1.0)
    held = await money.reserve("a", 1.0)
    clock.now += DAY_S
    await money.reserve("a", 1.0)
    await money.settle(held, 5.0)
    with pytest.raises(BudgetExceeded):
        await money.reserve("a", 0.01)


@given(st.lists(st.tuples(st.integers(0, 300), st.floats(0, 1)), max_size=40))
def test_what_was_settled_never_passes_the_budget(calls: list[tuple[int, float]]) -> None:
    """Estimates in cents; each call costs at most its estimate, so the sum of the costs stays within the budget."""

    async def play() -> None:
        money, _, recorder = budget(5.0)
        spent = 0.0
        for cents, share in calls:
            try:
                held = await money.reserve("a", cents / 100)
            except BudgetExceeded:
                continue
            spent += cents / 100 * share
            await money.settle(held, cents / 100 * share)
        assert spent <= 5.0 + 1e-6
        assert recorder.left.get(ALL, 5.0) == pytest.approx(5.0 - spent, abs=1e-6)

    asyncio.run(play())


async def test_attempts_share_what_was_set_aside_and_are_settled_together() -> None:
    money, _, recorder = budget(1.0)
    held = Purse(money, "a", 0.3)
    with await held.stake() as first:
        first.end(0.0)  # failed: costs nothing, so its money serves the next attempt
    with await held.stake() as second:
        with await held.stake() as hedge:
            assert recorder.left[ALL] == pytest.approx(0.4)
            hedge.end(None)  # given up: nobody knows, so it is counted whole
        second.end(0.1)
    await held.settle()
    assert held.spent == pytest.approx(0.4)
    assert recorder.left[ALL] == pytest.approx(0.6)


async def test_a_hedge_without_money_is_refused_and_leaves_the_call_alone() -> None:
    money, _, recorder = budget(0.5)
    held = Purse(money, "a", 0.3)
    with await held.stake() as first:
        with pytest.raises(BudgetExceeded):
            await held.stake()
        first.end(0.2)
    await held.settle()
    assert recorder.left[ALL] == pytest.approx(0.3)
