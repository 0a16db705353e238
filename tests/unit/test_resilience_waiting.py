"""Places, shared calls and races: who waits for whom, and that nothing stays behind when callers go away."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.config.overload import Priority
from serve.errors import DeadlineExceeded, Overloaded, Unavailable
from serve.resilience.concurrency import RANK, Concurrency
from serve.resilience.gradient import Gradient
from serve.resilience.hedge import race
from serve.resilience.single_flight import SingleFlight
from tests.unit.resilience_fakes import Clock, turns


class Holders:
    """Calls that hold a place until they are told to end."""

    def __init__(self, limit: int = 1, max_waiting: int = 10) -> None:
        self.clock = Clock()
        self.gradient = Gradient(limit, limit, limit)
        self.waits: list[float] = []
        self.room = Concurrency("m", self.gradient, max_waiting, self.waits.append, clock=self.clock)
        self.entered: list[str] = []
        self.ends: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def start(self, name: str, priority: Priority = "normal", left_s: float = 60.0) -> asyncio.Task[None]:
        self.ends[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._hold(name, priority, left_s))
        await turns()
        return self.tasks[name]

    async def end(self, name: str) -> None:
        self.ends[name].set()
        await turns()

    async def _hold(self, name: str, priority: Priority, left_s: float) -> None:
        await self.room.enter(priority, left_s)
        try:
            self.entered.append(name)
            await self.ends[name].wait()
        finally:
            self.room.leave()


async def test_priority_goes_first_then_arrival() -> None:
    calls = Holders()
    await calls.start("first")
    for name, priority in (("low", "low"), ("a", "normal"), ("high", "high"), ("b", "normal")):
        await calls.start(name, priority)  # type: ignore[arg-type]
    assert calls.entered == ["first"]
    assert calls.room.waiting == 4
    for name in ("first", "high", "a", "b", "low"):
        calls.clock.now += 1
        await calls.end(name)
    assert calls.entered == ["first", "high", "a", "b", "low"]
    assert calls.waits == [0, 1, 2, 3, 4]
    assert (calls.room.in_flight, calls.room.waiting) == (0, 0)


async def test_a_higher_limit_lets_in_who_waits_and_a_lower_one_turns_nobody_out() -> None:
    calls = Holders()
    for name in ("a", "b", "c"):
        await calls.start(name)
    assert calls.entered == ["a"]
    calls.room.bound(2, 2)
    await turns()
    assert calls.entered == ["a", "b"]
    calls.room.bound(1, 1)
    assert calls.room.in_flight == 2
    await calls.end("a")
    assert calls.entered == ["a", "b"], "the limit is one, and one has a place"
    await calls.end("b")
    assert calls.entered == ["a", "b", "c"]
    await calls.end("c")


async def test_a_full_room_refuses_the_least_important() -> None:
    calls = Holders(max_waiting=2)
    await calls.start("first")
    await calls.start("a", "low")
    b = await calls.start("b", "low")
    with pytest.raises(Overloaded, match="as many were waiting"):
        await (await calls.start("c", "low"))
    await calls.start("d", "high")
    with pytest.raises(Overloaded, match="made room"):
        await b
    for name in ("first", "d", "a"):
        await calls.end(name)
    assert calls.entered == ["first", "d", "a"]


async def usual(calls: Holders, seconds: float) -> None:
    """Makes that the time which calls usually take."""
    for _ in range(20):
        calls.gradient.succeeded(seconds, 1)


async def nobody_left(calls: Holders) -> None:
    for task in calls.tasks.values():
        task.cancel()
    await asyncio.gather(*calls.tasks.values(), return_exceptions=True)
    assert (calls.room.in_flight, calls.room.waiting) == (0, 0)


async def test_who_could_not_end_in_time_is_refused_on_arrival() -> None:
    calls = Holders()
    await usual(calls, 2.0)
    await calls.start("first")
    await calls.start("second")  # has its place in 2 s
    with pytest.raises(Overloaded, match=r"would wait 4\.0 s") as caught:
        await (await calls.start("third", left_s=6.8))
    assert caught.value.retry_after_s == pytest.approx(4.0)
    assert not (await calls.start("fourth", left_s=7.0)).done()
    await nobody_left(calls)


async def test_whoever_goes_first_takes_the_time_of_those_who_then_are_turned_away() -> None:
    calls = Holders()
    await usual(calls, 2.0)
    await calls.start("first")
    patient = await calls.start("patient", "low", left_s=60)
    hasty = await calls.start("hasty", "low", left_s=7.0)
    high = await calls.start("high", "high", left_s=5.0)
    with pytest.raises(Overloaded, match="gave its time"):
        await hasty
    assert not high.done()
    assert not patient.done()
    await nobody_left(calls)


async def test_a_place_goes_to_one_who_can_still_end_in_time() -> None:
    calls = Holders()
    await usual(calls, 2.0)
    await calls.start("first")
    hasty = await calls.start("hasty", left_s=5.0)
    await calls.start("patient", left_s=60)
    calls.clock.now += 3.0  # "first" took longer than usual
    await calls.end("first")
    with pytest.raises(Overloaded, match="could not end in time"):
        await hasty
    assert calls.entered == ["first", "patient"]
    await nobody_left(calls)


@pytest.mark.parametrize(("higher_per_s", "waits"), [(0, False), (2, False), (20, True)])
async def test_a_class_waits_for_the_higher_ones_that_will_come(higher_per_s: int, waits: bool) -> None:
    calls = Holders()
    await usual(calls, 0.1)
    await calls.start("first")
    for number in range(10 * higher_per_s):  # ten seconds of them, none of which stays
        calls.clock.now += 1 / higher_per_s
        (await calls.start(f"high {number}", "high")).cancel()
        await turns()
    assert (calls.room.expected_wait_s("low") > 1) == waits
    assert calls.room.expected_wait_s("high") == pytest.approx(0.1)
    await nobody_left(calls)


async def test_who_waited_in_vain_leaves_the_room() -> None:
    calls = Holders()
    await calls.start("first")
    with pytest.raises(DeadlineExceeded):
        await (await calls.start("second", left_s=0.001))
    assert calls.room.waiting == 0
    await calls.end("first")
    assert calls.room.in_flight == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["start", "end", "cancel"]), st.sampled_from(list(RANK))), max_size=40))
def test_no_order_of_events_loses_a_place(steps: list[tuple[str, Priority]]) -> None:
    async def play() -> None:
        calls = Holders(limit=2, max_waiting=4)
        for number, (what, priority) in enumerate(steps):
            live = [name for name, task in calls.tasks.items() if not task.done()]
            if what == "start" or not live:
                await calls.start(str(number), priority)
            elif what == "end":
                await calls.end(live[0])
            else:
                calls.tasks[live[-1]].cancel()
                await turns()
            busy = calls.room.in_flight
            assert busy <= 2
            assert busy == 2 or calls.room.waiting == 0
            assert calls.room.waiting <= 4
        for end in calls.ends.values():
            end.set()
        await asyncio.gather(*calls.tasks.values(), return_exceptions=True)
        assert (calls.room.in_flight, calls.room.waiting) == (0, 0)

    asyncio.run(play())


async def test_an_extra_place_is_never_one_that_somebody_waits_for() -> None:
    calls = Holders(limit=2)
    await calls.start("a")
    assert calls.room.enter_if_free()
    await calls.start("b")
    assert calls.entered == ["a"]
    calls.room.leave()
    await turns()
    assert calls.entered == ["a", "b"]
    assert not calls.room.enter_if_free()
    await calls.end("a")
    await calls.end("b")
    assert calls.room.in_flight == 0


class Flights:
    """A call that many share, and that ends when it is told to."""

    def __init__(self) -> None:
        self.flights: SingleFlight[Any] = SingleFlight()
        self.begun = self.cancelled = 0
        self.outcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def call(self) -> Any:
        self.begun += 1
        try:
            return await asyncio.shield(self.outcome)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    def join(self, timeout_s: float = 60.0) -> asyncio.Task[Any]:
        return asyncio.create_task(self.flights.run("key", self.call, timeout_s))


async def test_a_thousand_share_one_call() -> None:
    shared = Flights()
    tasks = [shared.join() for _ in range(1_000)]
    await turns()
    shared.outcome.set_result("answer")
    assert set(await asyncio.gather(*tasks)) == {"answer"}
    assert (shared.begun, len(shared.flights)) == (1, 0)


async def test_the_call_survives_whoever_began_it() -> None:
    shared = Flights()
    leader, follower = shared.join(), shared.join()
    await turns()
    leader.cancel()
    await turns()
    assert shared.cancelled == 0
    shared.outcome.set_result("answer")
    assert await follower == "answer"
    assert leader.cancelled()


async def test_the_call_ends_with_the_last_who_wait_and_nobody_joins_it_then() -> None:
    shared = Flights()
    tasks = [shared.join(), shared.join()]
    await turns()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    late = shared.join()
    await turns()
    assert (shared.begun, shared.cancelled) == (2, 1)
    shared.outcome.set_result("answer")
    assert await late == "answer"
    assert len(shared.flights) == 0


async def test_each_waits_until_its_own_deadline() -> None:
    shared = Flights()
    patient, hasty = shared.join(), shared.join(timeout_s=0.001)
    with pytest.raises(DeadlineExceeded):
        await hasty
    shared.outcome.set_result("answer")
    assert await patient == "answer"


async def test_all_get_the_failure() -> None:
    shared = Flights()
    tasks = [shared.join() for _ in range(3)]
    await turns()
    shared.outcome.set_exception(Unavailable("gone"))
    assert [str(error) for error in await asyncio.gather(*tasks, return_exceptions=True)] == ["gone"] * 3
    assert len(shared.flights) == 0


class Runner:
    """One of two racing calls."""

    def __init__(self) -> None:
        self.outcome: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.started = asyncio.Event()
        self.running = False

    @property
    def begun(self) -> bool:
        return self.started.is_set()

    async def __call__(self) -> str:
        self.started.set()
        self.running = True
        try:
            return await self.outcome
        finally:
            self.running = False


async def started(may: bool = True, after_s: float = 0.0) -> tuple[Runner, Runner, asyncio.Task[tuple[str, Any]]]:
    first, second = Runner(), Runner()
    task = asyncio.create_task(race(first, second, after_s, lambda: may))
    if after_s == 0.0 and may:
        await second.started.wait()
    await turns()
    return first, second, task


@pytest.mark.parametrize("winner", [0, 1])
async def test_the_first_success_wins_and_the_other_is_ended(winner: int) -> None:
    *runners, task = await started()
    runners[winner].outcome.set_result("answer")  # type: ignore[union-attr]
    assert await task == ("answer", winner == 1)
    assert not any(runner.running for runner in runners)  # type: ignore[union-attr]


async def test_a_failure_leaves_the_race_to_the_other() -> None:
    first, second, task = await started()
    first.outcome.set_exception(Unavailable("first"))
    await turns()
    second.outcome.set_result("answer")
    assert await task == ("answer", True)
    first, second, task = await started()
    second.outcome.set_exception(Unavailable("second"))
    await turns()
    first.outcome.set_exception(Unavailable("first"))
    with pytest.raises(Unavailable, match="first"):
        await task


async def test_no_second_call_in_time_or_where_none_is_allowed() -> None:
    first, second, task = await started(after_s=60.0)
    first.outcome.set_result("answer")
    assert await task == ("answer", None)
    assert not second.begun
    first, second, task = await started(may=False)
    first.outcome.set_result("answer")
    assert await task == ("answer", None)
    assert not second.begun


async def test_whoever_goes_away_ends_both() -> None:
    first, second, task = await started()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not first.running
    assert not second.running
