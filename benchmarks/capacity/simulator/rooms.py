"""The limiter's room of each model and provider, and the calls that have a place in it."""

from __future__ import annotations

from typing import Any

from benchmarks.capacity.simulator import draws
from benchmarks.capacity.simulator.events import push
from benchmarks.capacity.simulator.memory import items, nodes, rooms, slots, targets
from benchmarks.capacity.simulator.parts import part
from benchmarks.capacity.simulator.records import ANSWERED, AT_PROVIDER, AT_ROUTER, NONE, ON_THE_WAY, REACH, TURNED_AWAY
from benchmarks.capacity.simulator.slots import dead, free_item, half_overhead_s, log, ongoing, rest_s

# serve/resilience/concurrency.py: a call is refused that would end within this multiple of its time, by reckoning.
MARGIN = 1.15
# serve/resilience/gradient.py: how it learns the usual time of a call.
_WINDOWS, _WARM_UP, _CALLS, _DRIFT = 600, 10, 10, 0.95


@part
def leave(w: Any, router: int, place: int) -> None:
    """A place is given back, to the next in the room."""
    room = rooms(w)[router * w.target_count + place]
    room.busy -= 1
    while room.head != NONE and room.busy < room.limit:
        index = room.head
        room.head = items(w)[index].next
        slot, gone = items(w)[index].slot, dead(w, index)
        free_item(w, index)
        if gone:
            continue
        room.waiting -= 1
        one, now = slots(w)[slot], w.now
        if room.usual > 0.0 and MARGIN * room.usual > one.own - now:
            one.phase = AT_ROUTER
            push(w, now, TURNED_AWAY, slot, one.stamp)
            continue
        room.busy += 1
        go(w, slot, now - one.called)


@part
def go(w: Any, slot: int, waited_s: float) -> None:
    """A call that has its place begins."""
    one, now = slots(w)[slot], w.now
    node = nodes(w)[one.node]
    target = targets(w)[node.target]
    log(w, slot, waited_s, rooms(w)[one.router * w.target_count + node.target].usual)
    one.placed = now
    target.calls += 1
    target.waited += waited_s
    ongoing(w, node.target, 1)
    if target.hosted:
        one.phase = AT_PROVIDER
        one.attempt = 0
        ask_provider(w, slot)
        return
    one.phase = ON_THE_WAY
    way_s = half_overhead_s(w, slot)
    if one.best == NONE:
        way_s += rest_s(w, slot, draws.ROUTER_IN)
    push(w, now + way_s, REACH, slot, one.stamp)


@part
def ask_provider(w: Any, slot: int) -> None:
    """One attempt at a hosted model, with a second call beside it where that is late."""
    one = slots(w)[slot]
    target = targets(w)[nodes(w)[one.node].target]
    seed = w.seed
    key = (one.key * 64 + one.node) * 16 + one.attempt
    seconds = draws.drawn(w, target.latency, draws.uniform(seed, draws.ANSWER, key))
    pay(w, slot, target.usd)
    if target.hedge and seconds > target.late_s:
        again = draws.drawn(w, target.latency, draws.uniform(seed, draws.HEDGE, key))
        seconds = min(seconds, target.late_s + again)
        pay(w, slot, target.usd)
    one.failed = 1 if draws.uniform(seed, draws.FAILURE, key) < target.failure_share else 0
    push(w, w.now + seconds, ANSWERED, slot, one.stamp)


@part
def pay(w: Any, slot: int, usd: float) -> None:
    """Counts money for the request and for the day."""
    slots(w)[slot].usd += usd
    w.nano_spent += nano(usd)


@part
def nano(usd: float) -> float:
    """Billionths of a dollar, whole ones: sums of them do not drift."""
    return float(round(usd * 1e9))


@part
def learn(w: Any, place: int, seconds: float) -> None:
    """`Gradient.succeeded` and `_learn`: the usual time, a mean at first, then one that sinks faster than it rises."""
    room = rooms(w)[place]
    room.seconds += seconds
    room.calls += 1
    if room.calls < max(_CALLS, room.limit / 2):
        if room.windows == 0:
            room.usual = room.seconds / room.calls
        return
    mean = room.seconds / room.calls
    room.windows += 1
    part = 1.0 / room.windows if room.windows <= _WARM_UP else 2.0 / (_WINDOWS + 1)
    room.usual += (mean - room.usual) * part
    if room.usual > 2 * mean:
        room.usual *= _DRIFT
    room.seconds, room.calls = 0.0, 0
