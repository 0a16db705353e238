"""Admission as a control loop: three times what a model can do, in simulated time.

Poisson arrivals of three classes, the real `Admission`, a limiter's places with a waiting room by class, and a model
that takes four calls a pass. What is asserted is what clients feel.
"""

from __future__ import annotations

import heapq
import random
from bisect import insort
from collections import Counter
from contextvars import Context, copy_context
from dataclasses import dataclass, field

import pytest

from serve.config.overload import PRIORITIES, Overload, Priority, Tenant
from serve.context import RequestContext
from serve.errors import Overloaded
from serve.resilience.admission import Admission, Place

SLOTS, PASS_S, DEADLINE_S = 4, 0.2, 2.0
CAPACITY = SLOTS / PASS_S
SHARES: dict[Priority, float] = {"high": 0.6, "normal": 1.0, "low": 1.4}
START, END, LAST = 10.0, 70.0, 90.0


@dataclass(order=True)
class Request:
    rank: int
    number: int
    came: float = field(compare=False)
    place: Place = field(compare=False)
    context: Context = field(compare=False)
    sent: float = field(compare=False, default=0.0)


@dataclass
class World:
    """One router, one model.

    Attributes:
        places: calls that the limiter lets the model have at once.
    """

    places: int
    now: float = 0.0

    def __post_init__(self) -> None:
        self.admission = Admission(
            256,
            overload=Overload(target_queue_wait_ms=1e3 * PASS_S / 2),
            tenants={name: Tenant(priority=name) for name in PRIORITIES},
            clock=lambda: self.now,
            # Python's hash, the default, differs from process to process, and with it what a seed leads to.
            spot=lambda context: random.Random(context.request_id).random(),
        )
        self.room: list[Request] = []
        self.queue: list[Request] = []
        self.running: list[Request] = []
        self.last_pass_s = 0.0
        self.standing_s = 0.0
        self.counts: Counter[tuple[Priority, str]] = Counter()
        self.times: list[float] = []
        self.last_bad = 0.0

    def note(self, rank: int, what: str, came: float) -> None:
        if START <= came < END:
            self.counts[PRIORITIES[rank], what] += 1
        if came >= END and what != "answered":
            self.last_bad = max(self.last_bad, came - END)

    def arrive(self, priority: Priority, number: int) -> None:
        context = copy_context()
        rank = PRIORITIES.index(priority)
        request = RequestContext(f"r-{number}", priority, self.now + DEADLINE_S, priority)
        place = self.admission.enter(request, "/v1/chat")
        try:
            context.run(place.__enter__)
        except Overloaded:
            self.note(rank, "shed", self.now)
            return
        insort(self.room, Request(rank, number, self.now, place, context))
        self.let_in()

    def let_in(self) -> None:
        while self.room and len(self.queue) + len(self.running) < self.places:
            request = self.room.pop(0)
            if self.now - request.came > DEADLINE_S:
                self.leave(request, "lost")
                continue
            request.context.run(self.admission.waited, self.now - request.came)
            request.sent = self.now
            self.queue.append(request)

    def leave(self, request: Request, what: str) -> None:
        request.place.__exit__(None, None, None)
        self.note(request.rank, what, request.came)

    def begin(self) -> bool:
        """Starts a pass if the model is free and there is something to do."""
        if self.running or not self.queue:
            return False
        self.running, self.queue = self.queue[:SLOTS], self.queue[SLOTS:]
        waits = [max(0.0, self.now - request.sent - self.last_pass_s) for request in self.running]
        self.standing_s = sum(waits) / len(waits)
        self.last_pass_s = PASS_S
        return True

    def end(self) -> None:
        done, self.running = self.running, []
        for request in done:
            if self.standing_s:
                request.context.run(self.admission.waited, self.standing_s)
            took = self.now - request.came
            if START <= request.came < END:
                self.times.append(took)
            self.leave(request, "answered" if took <= DEADLINE_S else "lost")
        self.let_in()


def simulate(places: int, seed: int) -> World:
    world, draw = World(places), random.Random(seed)
    events: list[tuple[float, int, Priority | None]] = []
    for priority, share in SHARES.items():
        now = 0.0
        while now < LAST:
            rate = share * CAPACITY * (1.0 if START <= now < END else 1 / 6)
            now += draw.expovariate(rate)
            events.append((now, len(events), priority))
    heapq.heapify(events)
    number = len(events)
    while events:
        world.now, _, priority = heapq.heappop(events)
        if priority is None:
            world.end()
        else:
            number += 1
            world.arrive(priority, number)
        if world.begin():
            number += 1
            heapq.heappush(events, (world.now + PASS_S, number, None))
    return world


def share(world: World, priority: Priority, what: str) -> float:
    offered = sum(count for (one, _), count in world.counts.items() if one == priority)
    return world.counts[priority, what] / offered


@pytest.mark.parametrize("places", [8, 16])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_three_times_the_capacity(places: int, seed: int) -> None:
    world = simulate(places, seed)
    assert share(world, "high", "answered") >= 0.95
    assert share(world, "high", "lost") == 0
    assert share(world, "low", "shed") > 0.9 > share(world, "normal", "shed") > 0.4
    answered = sum(count for (_, what), count in world.counts.items() if what == "answered")
    assert answered / (END - START) >= 0.85 * CAPACITY
    assert world.last_bad <= 5.0
