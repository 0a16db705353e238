"""Admission: a bound on what is in progress, classes, and lanes that shed by their own queue waits."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import ExitStack, suppress
from contextvars import Context, copy_context

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.config.overload import Overload, Priority, Tenant
from serve.context import RequestContext
from serve.errors import InvalidRequest, Overloaded, RateLimited
from serve.resilience.admission import Admission, lane_of, model_lane
from serve.resilience.shedding import ShedReason
from tests.unit.fakes import KEYS, Site, cluster

CHAT, CLASSIFY = "/v1/chat", "/v1/classify"


class Clock:
    """Stands still until it is set."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Tally:
    """Counts what is reported."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def admitted(self, priority: Priority) -> None:
        self.counts[f"{priority} admitted"] += 1

    def shed(self, priority: Priority, reason: ShedReason) -> None:
        self.counts[f"{priority} shed {reason}"] += 1


def asker(priority: Priority = "normal", name: str = "r-1", left_s: float = 1e9) -> RequestContext:
    return RequestContext(name, "alice", 100.0 + left_s, priority)


def fixed(limit: int) -> Admission:
    return Admission(limit, clock=Clock())


class Door:
    """An admission with one long request inside, so that it is never idle, and its clock."""

    def __init__(self, **tenants: Priority) -> None:
        self.clock, self.tally = Clock(), Tally()
        self.admission = Admission(
            100,
            overload=Overload(target_queue_wait_ms=20, rise_per_s=2, relax_per_s=0.25),
            tenants={name: Tenant(priority=priority) for name, priority in tenants.items()},
            recorder=self.tally,
            clock=self.clock,
        )
        self.holder = ExitStack()
        self.holder.enter_context(self.admission.enter(asker("high"), "/v1/models"))

    def lets_in(self, priority: Priority, lane: str, name: str = "r-1", left_s: float = 1e9) -> bool:
        try:
            with self.admission.enter(asker(priority, name, left_s), lane):
                return True
        except Overloaded:
            return False

    def wait(self, priority: Priority, lane: str, seconds: float) -> None:
        """A request of that class and lane makes a call that waits so long."""

        def request() -> None:
            with self.admission.enter(asker(priority, f"w-{self.clock.now}", 1e9), lane):
                self.admission.waited(seconds)

        with suppress(Overloaded):
            copy_context().run(request)

    def busy(self, lane: str, seconds: float, wait_s: float = 1.0) -> None:
        """For so long, calls of every class wait `wait_s`."""
        for _ in range(round(seconds * 10)):
            self.clock.now += 0.1
            for priority in ("high", "normal", "low"):
                self.wait(priority, lane, wait_s)

    def share(self, priority: Priority, lane: str) -> float:
        return sum(self.lets_in(priority, lane, f"id-{i}") for i in range(400)) / 400


def test_the_limit_is_kept_and_places_come_back() -> None:
    admission = fixed(2)
    with admission.enter(asker(), CHAT):
        with admission.enter(asker(), CHAT):
            with pytest.raises(Overloaded) as caught, admission.enter(asker(), CHAT):
                pytest.fail("a third request was let in")
            assert "2 requests" in caught.value.message
            assert caught.value.code == "overloaded"
            assert caught.value.retry_after_s is not None
            assert caught.value.retry_after_s >= 1
        with admission.enter(asker(), CHAT):
            pass


def test_a_refused_request_takes_and_gives_nothing() -> None:
    counts: list[int] = []
    admission = Admission(1, counts.append)
    with admission.enter(asker(), CHAT):
        for _ in range(3):
            with pytest.raises(Overloaded), admission.enter(asker(), CHAT):
                pass
        assert counts == [1]
    assert counts == [1, 0]


@pytest.mark.parametrize("error", [ValueError("no"), asyncio.CancelledError(), KeyboardInterrupt()])
def test_a_place_comes_back_after_an_error(error: BaseException) -> None:
    admission = fixed(1)
    with pytest.raises(type(error)), admission.enter(asker(), CHAT):
        raise error
    with admission.enter(asker(), CHAT):
        pass


async def test_a_cancelled_request_gives_its_place_back() -> None:
    admission = fixed(1)
    entered = asyncio.Event()

    async def request() -> None:
        with admission.enter(asker(), CHAT):
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(request())
    await entered.wait()
    with pytest.raises(Overloaded), admission.enter(asker(), CHAT):
        pass
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with admission.enter(asker(), CHAT):
        pass


@given(st.integers(1, 5), st.lists(st.booleans(), max_size=40))
def test_never_more_than_the_limit(limit: int, arrivals: list[bool]) -> None:
    counts: list[int] = [0]
    admission = Admission(limit, counts.append)
    inside: list[ExitStack] = []
    for arrives in arrivals:
        if arrives:
            stack = ExitStack()
            try:
                stack.enter_context(admission.enter(asker(), CHAT))
            except Overloaded:
                assert len(inside) == limit
            else:
                inside.append(stack)
        elif inside:
            inside.pop(0).close()
        assert counts[-1] == len(inside) <= limit


def test_places_are_kept_for_a_class_that_a_tenant_has() -> None:
    door = Door(gold="high", default="normal", batch="low")
    with ExitStack() as full:
        for _ in range(79):  # one is in already
            full.enter_context(door.admission.enter(asker("low"), CHAT))
        assert not door.lets_in("low", CHAT)
        for _ in range(10):
            full.enter_context(door.admission.enter(asker("normal"), CHAT))
        assert not door.lets_in("normal", CHAT)
        assert door.lets_in("high", CHAT)
    assert door.tally.counts["low shed places"] == 1
    assert door.tally.counts["normal shed places"] == 1


def test_nothing_is_kept_for_classes_that_nobody_has() -> None:
    door = Door()
    with ExitStack() as full:
        for _ in range(99):
            full.enter_context(door.admission.enter(asker("normal"), CHAT))
        assert not door.lets_in("normal", CHAT)


@pytest.mark.parametrize(
    ("client", "asked", "expected"),
    [
        ("gold", None, "high"),
        ("gold", "low", "low"),
        ("gold", "high", "high"),
        ("batch", None, "low"),
        ("batch", "high", "low"),
        ("someone", None, "normal"),
        ("someone", "high", "normal"),
        ("someone", "low", "low"),
    ],
)
def test_a_client_may_lower_its_class_and_not_raise_it(client: str, asked: str | None, expected: Priority) -> None:
    assert Door(gold="high", batch="low").admission.priority(client, asked) == expected


def test_the_default_tenant_speaks_for_those_without_one() -> None:
    admission = Door(default="low", gold="high").admission
    assert admission.priority("someone") == "low"
    assert admission.priority("gold") == "high"


@pytest.mark.parametrize("asked", ["", "HIGH", "urgent", "1", "x" * 5000])
def test_an_unknown_class_is_refused(asked: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        fixed(1).priority("alice", asked)
    assert caught.value.param == "x-argus-priority"
    assert len(caught.value.message) < 200


def test_long_waits_shed_the_lowest_class_first() -> None:
    door = Door()
    door.busy(CHAT, 0.4)
    assert door.share("high", CHAT) == door.share("normal", CHAT) == 1
    assert 0.1 < door.share("low", CHAT) < 0.5
    door.busy(CHAT, 0.5)
    assert door.share("low", CHAT) == 0
    assert door.share("high", CHAT) == 1
    assert 0 < door.share("normal", CHAT) < 1
    assert door.tally.counts["low shed queue_wait"] > 400
    assert door.tally.counts["high shed queue_wait"] == 0


def test_the_same_request_meets_the_same_fate() -> None:
    door = Door()
    door.busy(CHAT, 0.4)
    first = [door.lets_in("low", CHAT, f"id-{i}") for i in range(50)]
    assert [door.lets_in("low", CHAT, f"id-{i}") for i in range(50)] == first
    assert len(set(first)) == 2


def test_waits_below_the_target_shed_nobody() -> None:
    door = Door()
    door.busy(CHAT, 30.0, wait_s=0.019)
    assert door.share("low", CHAT) == 1
    assert not any("shed" in key for key in door.tally.counts)


def test_all_are_let_in_again_within_five_seconds() -> None:
    door = Door()
    door.busy(CHAT, 1.0)
    assert door.share("low", CHAT) == 0
    for _ in range(50):
        door.clock.now += 0.1
        door.lets_in("high", CHAT)
    assert door.share("low", CHAT) == 1


def test_a_lane_that_waits_costs_no_other_lane_anything() -> None:
    door = Door()
    door.busy(CHAT, 1.0)
    assert door.share("low", CHAT) == 0
    assert door.share("low", CLASSIFY) == 1
    states = door.admission.lanes()
    assert states[CHAT].cut > 1
    assert states[CHAT].queue_wait_s == pytest.approx(1.0)
    assert CLASSIFY not in states


def test_what_would_wait_beyond_its_deadline_is_refused() -> None:
    door = Door()
    for _ in range(2):
        door.wait("high", CHAT, 0.5)
    assert not door.lets_in("high", CHAT, left_s=0.4)
    assert door.lets_in("high", CHAT, left_s=0.6)
    assert door.tally.counts["high shed deadline"] == 1


def test_a_call_that_a_full_queue_refused_counts_as_a_wait() -> None:
    door = Door()
    for number, error in enumerate([Overloaded("Full.", retry_after_s=2.0), RateLimited("Spent.", retry_after_s=9.0)]):
        with pytest.raises(type(error)), door.admission.enter(asker(name=str(number)), CHAT):
            raise error
    assert door.admission.lanes()[CHAT].queue_wait_s == 2.0


def test_an_idle_router_lets_in_whoever_comes() -> None:
    door = Door()
    door.busy(CHAT, 1.0)
    door.holder.close()
    assert door.share("low", CHAT) == 1


def test_the_load_is_that_of_all_lanes() -> None:
    door = Door()
    for _ in range(100):
        door.clock.now += 0.1
        door.wait("normal", CHAT, 0.004)
        door.wait("normal", CLASSIFY, 0.012)
    load = door.admission.load()
    assert load.queue_wait_s == pytest.approx(0.008)
    assert load.arrivals_per_s == pytest.approx(20, rel=0.1)


def test_waits_of_nobody_in_particular_belong_to_the_whole() -> None:
    door = Door()
    Context().run(door.admission.waited, 3.0)
    assert door.admission.load().queue_wait_s == 3.0
    assert door.admission.lanes() == {}


def test_lanes_are_bounded() -> None:
    door = Door()
    for number in range(500):
        door.wait("normal", f"/v2/models/m{number}", 0.0)
    assert len(door.admission.lanes()) <= 65


@pytest.mark.parametrize(
    ("path", "lane"),
    [
        ("/v1/classify", "/v1/classify"),
        ("/v1/chat/completions", "/v1/chat"),
        ("/v1/sessions/abc/messages", "/v1/sessions"),
        ("/v1/cascades/moderation", "/v1/cascades/moderation"),
        ("/v2/models/clip/infer", "/v2/models/clip"),
        ("/v2/models/clip/versions/1/infer", "/v2/models/clip"),
        ("/", "/"),
        ("", ""),
    ],
)
def test_a_lane_is_a_route_and_the_model_in_its_path(path: str, lane: str) -> None:
    assert lane_of(path) == lane


def test_both_protocols_of_a_model_share_its_lane() -> None:
    assert model_lane("clip") == lane_of("/v2/models/clip/infer")


async def test_http_says_when_to_come_back() -> None:
    tenants = {"alice": {"priority": "high"}, "bob": {"priority": "low"}}
    site = Site(cluster(keys=True, tenants=tenants), slots=10)
    bob = {"authorization": f"Bearer {KEYS['bob']}"}
    alice = {"authorization": f"Bearer {KEYS['alice']}"}
    with ExitStack() as held:
        for _ in range(9):
            held.enter_context(site.services.admission.enter(asker("high"), CHAT))
        async with site.client() as client:
            refused = await client.get("/v1/models", headers=bob)
            assert refused.status_code == 429
            assert refused.json()["error"]["code"] == "overloaded"
            assert int(refused.headers["retry-after"]) >= 1
            assert (await client.get("/v1/models", headers=alice)).status_code == 200
            lowered = await client.get("/v1/models", headers={**alice, "x-argus-priority": "low"})
            assert lowered.status_code == 429
            raised = await client.get("/v1/models", headers={**bob, "x-argus-priority": "high"})
            assert raised.status_code == 429
            wrong = await client.get("/v1/models", headers={**bob, "x-argus-priority": "urgent"})
            assert wrong.status_code == 400
            assert wrong.json()["error"]["param"] == "x-argus-priority"
            assert (await client.get("/v1/healthz")).status_code == 200
