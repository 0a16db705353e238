"""What every part of a request's way needs: items and calls, its time in the router, and its deadline."""

from __future__ import annotations

import math
from typing import Any

from benchmarks.capacity.simulator import draws
from benchmarks.capacity.simulator.events import push, served
from benchmarks.capacity.simulator.memory import (
    free_items,
    items,
    nodes,
    replicas,
    servers,
    slots,
    targets,
    waits,
    wheel,
)
from benchmarks.capacity.simulator.parts import part
from benchmarks.capacity.simulator.records import DUE, NONE

# Deadlines wait in buckets of so many seconds; only those of requests that are still here become events.
BUCKET_S = 0.05
# Of a request's router time, what comes before its call; the rest follows its answer.
_INWARD = 0.5


@part
def new_item(w: Any, slot: int) -> int:
    """An item of a slot's present call."""
    w.free_item_count -= 1
    index = free_items(w)[w.free_item_count]
    item = items(w)[index]
    item.slot, item.stamp, item.next = slot, slots(w)[slot].stamp, NONE
    return index


@part
def free_item(w: Any, index: int) -> None:
    """Gives its place back."""
    free_items(w)[w.free_item_count] = index
    w.free_item_count += 1


@part
def dead(w: Any, index: int) -> bool:
    """Its call is over."""
    return slots(w)[items(w)[index].slot].stamp != items(w)[index].stamp


@part
def stamp(w: Any, slot: int) -> None:
    """A new call: whatever is still about for the one before means nothing any more."""
    w.stamp += 1
    slots(w)[slot].stamp = w.stamp


@part
def through_router(w: Any, slot: int, purpose: int, what: int) -> None:
    """Half of a request's work in the router: an event when its event loop has done it."""
    one = slots(w)[slot]
    served(w, one.router, router_s(w, slot, purpose), what, slot, one.stamp)


@part
def router_s(w: Any, slot: int, purpose: int) -> float:
    """Processor time of that half."""
    one = slots(w)[slot]
    u = draws.uniform(w.seed, purpose, one.key * 64 + one.node)
    more_s = targets(w)[nodes(w)[one.node].target].router_cpu_s
    return _INWARD * (draws.drawn(w, w.router_cpu, u) + more_s)


@part
def rest_s(w: Any, slot: int, purpose: int) -> float:
    """The other part: time in the ingress and on the way, which nobody else has to wait for."""
    one = slots(w)[slot]
    u = draws.uniform(w.seed, purpose, one.key * 64 + one.node)
    rest = draws.drawn(w, w.router_latency, u) - draws.drawn(w, w.router_cpu, u)
    return max(0.0, _INWARD * rest - servers(w)[one.router].wake_s)


@part
def half_overhead_s(w: Any, slot: int) -> float:
    """Of the way between router and replica, one direction, without the work of the replica's event loop."""
    one = slots(w)[slot]
    target = targets(w)[nodes(w)[one.node].target]
    key = one.key * 64 + one.node
    whole = draws.drawn(w, target.overhead, draws.uniform(w.seed, draws.OVERHEAD, key))
    return max(0.0, 0.5 * whole - loop_s(w, slot) - target.wake_s)


@part
def loop_s(w: Any, slot: int) -> float:
    """Processor time of a replica's event loop for one message of a call: the request, and the answer or, where an
    engine writes it, each of its tokens."""
    one = slots(w)[slot]
    target = targets(w)[nodes(w)[one.node].target]
    tokens = one.output if target.engine else 1
    return target.cpu_s / (1 + max(1, tokens))


@part
def leave_replica(w: Any, slot: int) -> None:
    """The replica has one call less, and the places of its window."""
    one = slots(w)[slot]
    replica = replicas(w)[one.replica]
    replica.ongoing -= 1
    replica.taken -= one.held
    one.held = 0


@part
def ongoing(w: Any, place: int, change: int) -> None:
    """Counts the calls in progress of a model, and their integral over time."""
    target, now = targets(w)[place], w.now
    target.ongoing_s += target.ongoing * (now - target.ongoing_at)
    target.ongoing_at = now
    target.ongoing += change


@part
def log(w: Any, slot: int, seconds: float, usual: float) -> None:
    """A wait, for whoever shifts gears and sheds."""
    if not w.watched:
        return
    one = waits(w)[w.wait_count]
    one.time, one.seconds, one.usual, one.flow = w.now, seconds, usual, slots(w)[slot].flow
    w.wait_count += 1
    w.longest_wait = max(w.longest_wait, seconds)


@part
def log_standing(w: Any, slot: int) -> None:
    standing = replicas(w)[slots(w)[slot].replica].standing
    if standing > 0.0:
        log(w, slot, standing, 0.0)


@part
def watch(w: Any, slot: int) -> None:
    """The call's deadline is kept in mind, in a bucket of a wheel (Varghese and Lauck 1987)."""
    one = slots(w)[slot]
    if one.own == math.inf:
        return
    bucket = int(one.own / BUCKET_S)
    if bucket <= w.bucket:
        push(w, one.own, DUE, slot, one.stamp)
        return
    place = bucket % w.wheel_size
    one.wheel, one.before, one.next = place, NONE, wheel(w)[place]
    if one.next != NONE:
        slots(w)[one.next].before = slot
    wheel(w)[place] = slot


@part
def unwatch(w: Any, slot: int) -> None:
    one = slots(w)[slot]
    if one.wheel == NONE:
        return
    if one.before == NONE:
        wheel(w)[one.wheel] = one.next
    else:
        slots(w)[one.before].next = one.next
    if one.next != NONE:
        slots(w)[one.next].before = one.before
    one.wheel = NONE


@part
def turn_wheel(w: Any) -> None:
    """The next bucket's deadlines become events."""
    w.bucket += 1
    place = w.bucket % w.wheel_size
    slot = wheel(w)[place]
    while slot != NONE:
        one = slots(w)[slot]
        following = one.next
        one.wheel = NONE
        push(w, one.own, DUE, slot, one.stamp)
        slot = following
    wheel(w)[place] = NONE
