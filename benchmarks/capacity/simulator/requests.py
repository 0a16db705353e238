"""A request in the router: arrival, calls one after another, what an answer or a failure leads to, and its end."""

from __future__ import annotations

from typing import Any

from benchmarks.capacity.simulator import draws
from benchmarks.capacity.simulator.events import push, served, served_at, spend
from benchmarks.capacity.simulator.memory import (
    accept,
    after,
    ended,
    failed,
    flow,
    flows,
    free_slots,
    gears,
    items,
    nodes,
    ok,
    outputs,
    path,
    prompts,
    rooms,
    servers,
    slots,
    starts,
    targets,
    usd,
)
from benchmarks.capacity.simulator.parts import part
from benchmarks.capacity.simulator.records import (
    ANSWERED,
    AT_REPLICA,
    AT_ROUTER,
    BACK,
    BROKEN,
    CALL,
    COMING_BACK,
    IN_ROOM,
    LEAVING,
    NONE,
    ON_THE_WAY,
    OVER_BUDGET,
    PACED,
    REASONS,
    REFUSED,
    SENT,
    SHARED,
    TIMED_OUT,
    UNPLACED,
    WRITTEN,
)
from benchmarks.capacity.simulator.rooms import MARGIN, go, learn, leave, nano, pay
from benchmarks.capacity.simulator.slots import (
    half_overhead_s,
    leave_replica,
    log,
    log_standing,
    loop_s,
    new_item,
    ongoing,
    rest_s,
    router_s,
    stamp,
    through_router,
    unwatch,
    watch,
)
from serve.resilience.budget import fits
from serve.resilience.rates import taken

# serve/resilience/target.py: calls that queue for a provider's rate.
_MOST_PACED = 256
_DAY_S = 86_400.0

_taken = part(taken)
_fits = part(fits)


@part
def arrive(w: Any, number: int) -> None:
    """A request comes: a router's place, or a refusal."""
    now = w.now
    kind = _flow(w, number)
    flow(w)[number] = kind
    own = flows(w)[kind]
    spend(w, w.client, w.client_s)
    router = _least_busy(w)
    if _shed(w, number, kind, router):
        ended(w)[number] = now
        return
    slot = _new_slot(w, number, number, kind, router)
    one = slots(w)[slot]
    servers(w)[router].in_flight += 1
    one.deadline = now + own.deadline
    one.node = starts(w)[kind * w.gear_count + one.gear]
    one.prompt, one.output = own.prompt, own.output
    # As `argus load` does: where a recording does not say, the flow does.
    if w.has_tokens and prompts(w)[number] > 0:
        one.prompt = prompts(w)[number]
    if w.has_tokens and outputs(w)[number] > 0:
        one.output = outputs(w)[number]
    spend(w, w.ingress, w.ingress_s)
    through_router(w, slot, draws.ROUTER_IN, CALL)


@part
def _flow(w: Any, number: int) -> int:
    last = w.flow_count - 1
    if last == 0:
        return 0
    u = draws.uniform(w.seed, draws.FLOW, number)
    kind = 0
    while kind < last and u >= flows(w)[kind].until:
        kind += 1
    return kind


@part
def _least_busy(w: Any) -> int:
    """HAProxy's `leastconn`, which Ray Serve sets."""
    best = 0
    for router in range(1, w.routers):
        if servers(w)[router].in_flight < servers(w)[best].in_flight:
            best = router
    return best


@part
def _shed(w: Any, number: int, kind: int, router: int) -> bool:
    """serve/resilience/shedding.py's `decide`, for one class of requests."""
    in_flight = servers(w)[router].in_flight
    if in_flight >= w.places:
        return True
    flow = flows(w)[kind]
    if in_flight == 0 or flow.cut == 0.0:
        return False
    return flow.cut > draws.uniform(w.seed, draws.SHED, number) or flow.queue_wait > flow.deadline


@part
def _new_slot(w: Any, number: int, key: int, kind: int, router: int) -> int:
    w.free_slot_count -= 1
    w.in_flight += 1
    slot = free_slots(w)[w.free_slot_count]
    one = slots(w)[slot]
    one.number, one.key, one.flow, one.router, one.gear = number, key, kind, router, gears(w)[kind]
    one.best, one.replica, one.wheel, one.attempt, one.usd = NONE, NONE, NONE, 0, 0.0
    one.arrived, one.phase = w.now, AT_ROUTER
    stamp(w, slot)
    return slot


@part
def call(w: Any, slot: int) -> None:
    """The slot's node is asked: its time, its rate, its place."""
    one = slots(w)[slot]
    now = w.now
    node = nodes(w)[one.node]
    left = one.deadline - now
    if left <= 0.0:
        fail(w, slot, TIMED_OUT)
        return
    seconds = left * node.share
    if one.best != NONE:
        seconds = min(seconds, left * node.in_hand)
    one.own = now + seconds
    one.called, one.replica, one.phase = now, NONE, AT_ROUTER
    watch(w, slot)
    target = targets(w)[node.target]
    target.came += 1
    if one.number >= 0:
        node.asked += 1
        node.plain += one.gear == 0
    if target.hosted and not _affords(w, target.usd):
        fail(w, slot, OVER_BUDGET)
        return
    if target.interval_s > 0.0 and not _paced(w, slot):
        return
    enter(w, slot)


@part
def _affords(w: Any, usd: float) -> bool:
    """Whether the day's money has room for a call; days begin with the run."""
    day = int(w.now / _DAY_S)
    if day > w.usd_day:
        w.usd_day, w.nano_spent = day, 0.0
    return _fits(w.nano_spent, nano(usd), w.nano_most)


@part
def _paced(w: Any, slot: int) -> bool:
    """Both rates of a provider let the call pass; False when it waits for them, or has failed."""
    one, now = slots(w)[slot], w.now
    node = nodes(w)[one.node]
    target = targets(w)[node.target]
    calls_full, tokens_full, wait = target.full_at, target.tokens_full_at, 0.0
    if target.calls_a_minute > 0.0:
        calls_full, wait = _taken(target.full_at, 1.0, target.calls_a_minute, now)
    if target.tokens_a_minute > 0.0:
        tokens_full, more = _taken(target.tokens_full_at, target.tokens, target.tokens_a_minute, now)
        wait = max(wait, more)
    late = wait >= one.own - now or wait >= _MOST_PACED * target.interval_s
    if wait > 1e-9 and (node.fallback or late):
        fail(w, slot, REFUSED)
        return False
    target.full_at, target.tokens_full_at = calls_full, tokens_full
    if wait > 1e-9:
        push(w, now + wait, PACED, slot, one.stamp)
    return wait <= 1e-9


@part
def enter(w: Any, slot: int) -> None:
    """`Concurrency.enter`: a place, a wait for one, or a refusal, with all callers of one class."""
    one, now = slots(w)[slot], w.now
    node = nodes(w)[one.node]
    target = targets(w)[node.target]
    room = rooms(w)[one.router * w.target_count + node.target]
    room.limit = min(target.most_places, max(target.least, target.limit_each * max(1, target.ready)))
    if room.waiting == 0 and room.busy < room.limit:
        room.busy += 1
        go(w, slot, 0.0)
        return
    expected = (room.waiting + 1) * room.usual / room.limit
    late = room.usual > 0.0 and MARGIN * (expected + room.usual) > one.own - now
    if late or room.waiting >= target.max_waiting:
        log(w, slot, expected if late else room.usual, room.usual)
        fail(w, slot, REFUSED)
        return
    one.phase = IN_ROOM
    index = new_item(w, slot)
    if room.head == NONE:
        room.head = index
    else:
        items(w)[room.tail].next = index
    room.tail = index
    room.waiting += 1


@part
def answered(w: Any, slot: int) -> None:
    """A provider's attempt has ended: an answer, a further attempt after a pause, or a failure."""
    one, now = slots(w)[slot], w.now
    node = nodes(w)[one.node]
    target = targets(w)[node.target]
    if not one.failed:
        back(w, slot)
        return
    pay(w, slot, -target.usd)  # a failed call is not paid for
    one.attempt += 1
    pause = min(target.max_pause, target.first_pause * 2.0 ** (one.attempt - 1))
    key = (one.key * 64 + one.node) * 16 + one.attempt
    pause *= draws.uniform(w.seed, draws.PAUSE, key)
    if node.fallback or one.attempt >= target.attempts or now + pause >= one.own:
        fail(w, slot, BROKEN)
        return
    one.failed = 2
    push(w, now + pause, ANSWERED, slot, one.stamp)


@part
def items_done(w: Any, slot: int) -> None:
    """All of a call's items are done: the replica's event loop sends the answer."""
    one = slots(w)[slot]
    leave_replica(w, slot)
    one.phase = COMING_BACK
    target = targets(w)[nodes(w)[one.node].target]
    if target.cpu_s + target.wake_s == 0.0:
        push(w, w.now + half_overhead_s(w, slot), BACK, slot, one.stamp)
    else:
        server = w.routers + one.replica
        served(w, server, loop_s(w, slot), SENT, slot, one.stamp)


@part
def sent(w: Any, slot: int) -> None:
    """The replica has sent its answer."""
    push(w, w.now + half_overhead_s(w, slot), BACK, slot, slots(w)[slot].stamp)


@part
def back(w: Any, slot: int) -> None:
    """A call's answer is back at the router: it is given, or the next step is asked."""
    one, now = slots(w)[slot], w.now
    node = nodes(w)[one.node]
    learn(w, one.router * w.target_count + node.target, now - one.placed)
    targets(w)[node.target].done += 1
    targets(w)[node.target].busy += now - one.placed
    if one.replica != NONE:
        log_standing(w, slot)
    ongoing(w, node.target, -1)
    leave(w, one.router, node.target)
    one.best = node.path
    following = after(w)[one.node * w.gear_count + one.gear]
    share = accept(w)[one.node * w.gear_count + one.gear]
    if following != NONE and draws.uniform(w.seed, draws.ACCEPT, one.key * 64 + node.step) >= share:
        _on(w, slot, following)
        return
    if following != NONE and one.number >= 0:
        _shadow(w, slot, following)
    give(w, slot)


@part
def _on(w: Any, slot: int, node: int) -> None:
    """The next step is asked, which costs the router another call."""
    one = slots(w)[slot]
    one.node, one.phase = node, AT_ROUTER
    unwatch(w, slot)
    stamp(w, slot)
    through_router(w, slot, draws.ROUTER_IN, CALL)


@part
def _shadow(w: Any, slot: int, following: int) -> None:
    """A share of accepted answers is checked by the next step, off the request's path."""
    one = slots(w)[slot]
    share = flows(w)[one.flow].shadow
    server = servers(w)[one.router]
    if share == 0.0 or server.shadows >= w.shadow_most:
        return
    if draws.uniform(w.seed, draws.SHADOW, one.key) >= share:
        return
    server.shadows += 1
    index = _new_slot(w, NONE, one.key, one.flow, one.router)
    check = slots(w)[index]
    check.deadline = w.now + flows(w)[one.flow].shadow_deadline
    check.node, check.prompt, check.output = following, one.prompt, one.output
    push(w, w.now, CALL, index, check.stamp)


@part
def give(w: Any, slot: int) -> None:
    """The answer is written."""
    one = slots(w)[slot]
    unwatch(w, slot)
    if one.number < 0:
        _end(w, slot)
        return
    one.phase = LEAVING
    if w.mode == SHARED or servers(w)[one.router].free > w.now:
        through_router(w, slot, draws.ROUTER_OUT, WRITTEN)
    else:  # nobody is before it, and nothing can come between: no event is needed
        seconds = router_s(w, slot, draws.ROUTER_OUT)
        written(w, slot, served_at(w, one.router, seconds))


@part
def written(w: Any, slot: int, at: float) -> None:
    """The answer leaves the router."""
    one = slots(w)[slot]
    number = one.number
    ended(w)[number] = at + rest_s(w, slot, draws.ROUTER_OUT)
    ok(w)[number] = True
    flows(w)[one.flow].served += 1
    path(w)[number] = one.best
    usd(w)[number] = one.usd
    _end(w, slot)


@part
def fail(w: Any, slot: int, kind: int) -> None:
    """The slot's call has failed: its fallback, the next step, the answer in hand, or an error."""
    one, now = slots(w)[slot], w.now
    place = nodes(w)[one.node].target
    phase = one.phase
    if phase == IN_ROOM:
        rooms(w)[one.router * w.target_count + place].waiting -= 1
    elif phase == AT_REPLICA:
        leave_replica(w, slot)
    one.phase = AT_ROUTER
    stamp(w, slot)
    unwatch(w, slot)
    if ON_THE_WAY <= phase <= UNPLACED:
        ongoing(w, place, -1)
        leave(w, one.router, place)
    if one.number < 0:
        _end(w, slot)
        return
    following = NONE
    if one.deadline > now:
        following = failed(w)[one.node * REASONS + kind]
        # As in serve/cascade/run.py: for want of capacity or money nothing goes on to a dearer step.
        if following == NONE and kind != REFUSED and kind != OVER_BUDGET:
            following = after(w)[one.node * w.gear_count + one.gear]
    if following != NONE:
        one.node = following
        through_router(w, slot, draws.ROUTER_IN, CALL)
    elif one.best != NONE and flows(w)[one.flow].best_answer:
        give(w, slot)
    else:
        ended(w)[one.number] = now
        usd(w)[one.number] = one.usd
        _end(w, slot)


@part
def _end(w: Any, slot: int) -> None:
    one = slots(w)[slot]
    if one.number >= 0:
        servers(w)[one.router].in_flight -= 1
    else:
        servers(w)[one.router].shadows -= 1
    one.stamp = 0
    free_slots(w)[w.free_slot_count] = slot
    w.free_slot_count += 1
    w.in_flight -= 1
