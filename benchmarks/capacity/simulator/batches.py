"""A replica: its worker pool and its batcher, whose decisions are those that serve, compiled."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from benchmarks.capacity.simulator import draws
from benchmarks.capacity.simulator.events import push, work
from benchmarks.capacity.simulator.memory import (
    head_times,
    heads,
    items,
    passes,
    replicas,
    slots,
    tails,
    targets,
)
from benchmarks.capacity.simulator.parts import part
from benchmarks.capacity.simulator.records import (
    GATHERED,
    IDLE,
    LINGERING,
    NONE,
    PASSED,
    PREPARED,
    RUNNING,
    TIMED_OUT,
)
from benchmarks.capacity.simulator.requests import fail
from benchmarks.capacity.simulator.slots import dead, free_item
from deployments import batch_policy

_company = part(batch_policy.company)
_linger_s = part(batch_policy.linger_s)
_oldest = part(batch_policy.oldest)
_ruling = part(batch_policy.ruling)
_observed = part(batch_policy.observed)
_relaxed = part(batch_policy.relaxed)
_line = part(batch_policy.line)
_predicted_s = part(batch_policy.predicted_s)
_usual_wait_s = part(batch_policy.usual_wait_s)

_LATE, _FULL = batch_policy.LATE, batch_policy.FULL


@part
def prepare(w: Any, place: int, index: int) -> None:
    """An item comes to the worker pool."""
    replica = replicas(w)[place]
    replica.pending += 1
    if replica.working < targets(w)[replica.target].workers:
        replica.working += 1
        _begin(w, place, index)
        return
    items(w)[index].next = NONE
    if replica.prep_head == NONE:
        replica.prep_head = index
    else:
        items(w)[replica.prep_tail].next = index
    replica.prep_tail = index


@part
def _begin(w: Any, place: int, index: int) -> None:
    target = targets(w)[replicas(w)[place].target]
    key = _key(w, index)
    seconds = draws.drawn(w, target.preprocess, draws.uniform(w.seed, draws.PREPROCESS, key))
    work(w, seconds, 1.0, PREPARED, place, index)


@part
def _key(w: Any, index: int) -> int:
    """Of an item's random numbers: the same whatever else happens."""
    slot = slots(w)[items(w)[index].slot]
    return (slot.key * 64 + slot.node) * 64 + items(w)[index].begun


@part
def next_to_prepare(w: Any, place: int) -> None:
    """A worker is free: it takes the next item whose call is still wanted."""
    replica = replicas(w)[place]
    replica.pending -= 1
    while replica.prep_head != NONE:
        index = replica.prep_head
        replica.prep_head = items(w)[index].next
        if not dead(w, index):
            _begin(w, place, index)
            return
        replica.pending -= 1
        free_item(w, index)
    replica.working -= 1


@part
def enqueue(w: Any, place: int, index: int) -> None:
    """Puts a prepared item at the end of its lane; the caller has seen that there is room."""
    replica = replicas(w)[place]
    item = items(w)[index]
    item.enqueued, item.next = w.now, NONE
    lane = item.lane
    if heads(w)[place * w.lane_width + lane] == NONE:
        heads(w)[place * w.lane_width + lane] = index
    else:
        items(w)[tails(w)[place * w.lane_width + lane]].next = index
    tails(w)[place * w.lane_width + lane] = index
    replica.waiting += 1


@part
def come(w: Any, place: int) -> None:
    """An item has come to the batcher."""
    replica = replicas(w)[place]
    if replica.doing == IDLE:
        turn(w, place, False)
    elif replica.doing == LINGERING and replica.waiting >= _wanted(w, place):
        turn(w, place, True)


@part
def _wanted(w: Any, place: int) -> int:
    return _company(replicas(w)[place].last_items, targets(w)[replicas(w)[place].target].max_items)


@part
def turn(w: Any, place: int, lingered: bool) -> None:
    """The batcher's loop, up to where it waits: for items, for company, or for the pass to end.

    Args:
        lingered: it has waited for company already.
    """
    replica = replicas(w)[place]
    now = w.now
    while True:
        if replica.waiting == 0:
            replica.doing = IDLE
            return
        if not lingered and replica.waiting < _wanted(w, place):
            last_pass_s = _predicted_s(_line(_sums(replica)), replica.last_cost)
            left = _linger_s(targets(w)[replica.target].max_wait, last_pass_s)
            if left > 0.0:
                replica.doing = LINGERING
                replica.turn += 1
                push(w, now + left, GATHERED, place, replica.turn)
                return
        _collect(w, place)
        if replica.batch_items > 0:
            _run(w, place)
            return
        lingered = False


@part
def _sums(replica: Any) -> Any:
    return (replica.weight, replica.costs, replica.squares, replica.seconds, replica.products)


@part
def _keep(replica: Any, sums: Any) -> None:
    replica.weight, replica.costs, replica.squares, replica.seconds, replica.products = sums


@part
def _lane(w: Any, place: int) -> int:
    lanes = targets(w)[replicas(w)[place].target].lanes
    if lanes == 1:
        return 0
    first = place * w.lane_width
    for lane in range(lanes):
        head = heads(w)[first + lane]
        head_times(w)[first + lane] = items(w)[head].enqueued if head != NONE else math.inf
    return _oldest(head_times(w)[first : first + lanes])


@part
def _collect(w: Any, place: int) -> None:
    """`Batcher._collect`: the next batch from the lane whose head has waited longest."""
    replica = replicas(w)[place]
    target = targets(w)[replica.target]
    now = w.now
    lane = _lane(w, place)
    replica.batch, replica.batch_items, replica.batch_cost = NONE, 0, 0.0
    tightest = math.inf
    last = NONE
    waits, standing = 0.0, 0.0
    fixed_s, cost_s = _line(_sums(replica))
    usual = _usual_wait_s(replica.last_pass, target.max_wait)
    while heads(w)[place * w.lane_width + lane] != NONE and replica.batch_items < target.max_items:
        index = heads(w)[place * w.lane_width + lane]
        item = items(w)[index]
        following = item.next
        if dead(w, index):
            free_item(w, index)
        else:
            together = replica.batch_cost + item.cost
            verdict = _ruling(together, target.max_cost, tightest, item.deadline, now, fixed_s, cost_s)
            if verdict == _FULL:
                break
            if verdict == _LATE:
                if item.deadline > now:
                    _keep(replica, _relaxed(_sums(replica)))
                    fixed_s, cost_s = _line(_sums(replica))
                replica.refused += 1
                fail(w, item.slot, TIMED_OUT)
                free_item(w, index)
            else:
                if last == NONE:
                    replica.batch = index
                else:
                    items(w)[last].next = index
                last = index
                item.next = NONE
                replica.batch_items += 1
                replica.batch_cost = together
                tightest = min(tightest, item.deadline)
                wait = now - item.enqueued
                waits += wait
                standing += max(0.0, wait - usual)
        heads(w)[place * w.lane_width + lane] = following
        replica.waiting -= 1
    if replica.batch_items > 0:
        replica.wait_s += waits
        replica.standing = standing / replica.batch_items
        replica.last_items, replica.last_cost = replica.batch_items, replica.batch_cost


@part
def _run(w: Any, place: int) -> None:
    replica = replicas(w)[place]
    target = targets(w)[replica.target]
    replica.doing = RUNNING
    replica.began = w.now
    key = (np.int64(place) << 40) + replica.passes
    u = draws.uniform(w.seed, draws.PASS, key)
    seconds = target.slowdown * pass_s(w, target.pass_row, target.pass_rows, replica.batch_cost, u)
    replica.passes += 1
    replica.ran += replica.batch_items
    work(w, seconds, target.cores, PASSED, place, 0)


@part
def pass_s(w: Any, first: int, rows: int, cost: float, u: float) -> float:
    """Seconds of a forward pass: a straight line in cost between two measured sizes, and beyond the last one."""
    if rows == 1 or cost <= passes(w)[first]:
        return draws.drawn(w, first, u)
    above = 1
    while above < rows - 1 and passes(w)[first + above] < cost:
        above += 1
    low, high = passes(w)[first + above - 1], passes(w)[first + above]
    from_s = draws.drawn(w, first + above - 1, u)
    to_s = draws.drawn(w, first + above, u)
    return max(from_s, from_s + (to_s - from_s) * (cost - low) / (high - low))


@part
def pass_ended(w: Any, place: int) -> None:
    """The batcher learns how long its pass took; its items are in `batch` until the caller has answered them."""
    replica = replicas(w)[place]
    seconds = w.now - replica.began
    _keep(replica, _observed(_sums(replica), replica.batch_cost, seconds))
    replica.last_pass = seconds
    replica.busy_s += seconds
