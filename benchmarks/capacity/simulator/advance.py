"""The simulation's loop: the next arrival, event or end of work, and what each leads to."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

from benchmarks.capacity.simulator import draws, engines
from benchmarks.capacity.simulator.batches import come, enqueue, next_to_prepare, pass_ended, turn
from benchmarks.capacity.simulator.events import change_pace, drop_first, end_work, next_job, next_work_s, push, served
from benchmarks.capacity.simulator.memory import (
    arrivals,
    cpu_heap,
    heap,
    items,
    nodes,
    ready,
    replicas,
    slots,
    targets,
)
from benchmarks.capacity.simulator.parts import part
from benchmarks.capacity.simulator.records import (
    ANSWERED,
    AT_REPLICA,
    BACK,
    CALL,
    DUE,
    GATHERED,
    IDLE,
    LEAVING,
    LINGERING,
    NONE,
    PACED,
    PASSED,
    PREPARED,
    REACH,
    REFUSED,
    REPACED,
    SENT,
    SERVED,
    SPENT,
    SUBMIT,
    TIMED_OUT,
    TOLD,
    TURNED_AWAY,
    UNPLACED,
    WRITTEN,
)
from benchmarks.capacity.simulator.requests import answered, arrive, back, call, enter, fail, sent, written
from benchmarks.capacity.simulator.rooms import ask_provider
from benchmarks.capacity.simulator.slots import BUCKET_S, dead, free_item, loop_s, turn_wheel
from benchmarks.capacity.simulator.windows import begin, end_items
from deployments import batch_policy, windows
from serve.resilience import budget, rates

# Why the loop stopped.
DONE, CROWDED, ALARMED = 0, 1, 2
# serve/affinity.py.
_SLACK, _FLOOR = 0.25, 4
_LOOK_S = 0.1


@part
def _run(w: Any, until: float) -> int:
    while True:
        if _crowded(w):
            return CROWDED
        if w.longest_wait > w.alarm_s:
            return ALARMED
        next_event = heap(w)[0].time if w.heap_count else math.inf
        next_arrival = arrivals(w)[w.next_arrival] if w.next_arrival < w.request_count else math.inf
        next_work = next_work_s(w)
        soonest = min(next_event, next_arrival, next_work)
        if soonest == math.inf or soonest > until:
            if until < math.inf:
                w.now = until
            return DONE
        bucket = (w.bucket + 1) * BUCKET_S
        if bucket <= soonest:
            turn_wheel(w)
            continue
        w.events += 1
        w.now = soonest
        if next_arrival == soonest:
            number = w.next_arrival
            w.next_arrival = number + 1
            arrive(w, number)
        elif next_work == soonest:
            event = cpu_heap(w)[0]
            what, who, stamp = event.what, event.who, event.stamp
            end_work(w)
            _happen(w, what, who, stamp)
        else:
            event = heap(w)[0]
            what, who, stamp = event.what, event.who, event.stamp
            drop_first(heap(w), w.heap_count)
            w.heap_count -= 1
            _happen(w, what, who, stamp)


@part
def _crowded(w: Any) -> bool:
    return (
        w.free_slot_count < w.room
        or w.free_item_count < w.room
        or w.free_job_count < w.room
        or w.heap_count + w.room > w.heap_size
        or (w.watched and w.wait_count + w.room > w.wait_size)
    )


@part
def _happen(w: Any, what: int, who: int, stamp: int) -> None:
    if what == PASSED:
        _passed(w, who)
    elif what == PREPARED:
        _prepared(w, who, stamp)
    elif what == GATHERED:
        replica = replicas(w)[who]
        if replica.doing == LINGERING and replica.turn == stamp:
            turn(w, who, True)
    elif what == SERVED:
        next_job(w, who)
    elif what == TOLD:
        engines.told(w, who, stamp)
    elif what == REPACED:
        change_pace(w)
    elif what != SPENT and slots(w)[who].stamp == stamp:
        _on_the_way(w, what, who)


@part
def _on_the_way(w: Any, what: int, slot: int) -> None:
    """What happens to a call that is still wanted."""
    if what == CALL:
        call(w, slot)
    elif what == REACH:
        _reach(w, slot)
    elif what == SUBMIT:
        begin(w, slot)
    elif what == SENT:
        sent(w, slot)
    elif what == BACK:
        back(w, slot)
    elif what == WRITTEN:
        written(w, slot, w.now)
    elif what == ANSWERED:
        if slots(w)[slot].failed == 2:
            ask_provider(w, slot)
        else:
            answered(w, slot)
    elif what == PACED:
        slots(w)[slot].called = w.now
        enter(w, slot)
    elif what == TURNED_AWAY:
        fail(w, slot, REFUSED)
    elif what == DUE and slots(w)[slot].phase != LEAVING:
        fail(w, slot, TIMED_OUT)


@part
def _reach(w: Any, slot: int) -> None:
    """Ray Serve's router picks a replica, which reads the call."""
    one = slots(w)[slot]
    target = targets(w)[nodes(w)[one.node].target]
    if target.ready == 0:
        # There is no replica: Ray Serve's router looks again and again.
        one.phase = UNPLACED
        push(w, w.now + _LOOK_S, REACH, slot, one.stamp)
        return
    place = _pick(w, slot)
    replica = replicas(w)[place]
    replica.ongoing += 1
    one.replica, one.phase = place, AT_REPLICA
    if target.cpu_s + target.wake_s == 0.0:
        begin(w, slot)
    else:
        server = w.routers + place
        served(w, server, loop_s(w, slot), SUBMIT, slot, one.stamp)


@part
def _pick(w: Any, slot: int) -> int:
    """The better of two replicas drawn by chance (Mitzenmacher 2001), or by consistent hashing with bounded loads."""
    one = slots(w)[slot]
    place = nodes(w)[one.node].target
    target = targets(w)[place]
    count = target.ready
    if count == 1:
        return ready(w)[place * w.ready_width + 0]
    u = draws.uniform(w.seed, draws.REPLICA, one.key * 64 + one.node)
    if target.affinity:
        return _by_affinity(w, place, int(u * count))
    pair = int(u * (count * (count - 1)))
    first = pair // (count - 1)
    second = pair % (count - 1)
    if second >= first:
        second += 1
    one_place, other = ready(w)[place * w.ready_width + first], ready(w)[place * w.ready_width + second]
    return other if replicas(w)[other].ongoing < replicas(w)[one_place].ongoing else one_place


@part
def _by_affinity(w: Any, place: int, start: int) -> int:
    count = targets(w)[place].ready
    total = 0
    for which in range(count):
        total += replicas(w)[ready(w)[place * w.ready_width + which]].ongoing
    most = max(_FLOOR, math.ceil((1 + _SLACK) * (total + 1) / count))
    for step in range(count):
        found = ready(w)[place * w.ready_width + (start + step) % count]
        if replicas(w)[found].ongoing < most:
            return found
    return ready(w)[place * w.ready_width + start]


@part
def _prepared(w: Any, place: int, index: int) -> None:
    next_to_prepare(w, place)
    replica = replicas(w)[place]
    if dead(w, index):
        free_item(w, index)
        return
    target = targets(w)[replica.target]
    item = items(w)[index]
    too_long = target.engine and item.prompt + item.output > target.kv_tokens
    if replica.waiting >= target.max_queue or too_long:
        slot = item.slot
        free_item(w, index)
        fail(w, slot, REFUSED)
        return
    item.begun = 0
    enqueue(w, place, index)
    if not target.engine:
        come(w, place)
    elif replica.doing == IDLE:
        engines.step(w, place)


@part
def _passed(w: Any, place: int) -> None:
    """A pass or a step has ended: answers go back, and the next one begins."""
    replica = replicas(w)[place]
    if targets(w)[replica.target].engine:
        engines.step_ended(w, place)
        engines.step(w, place)
        return
    pass_ended(w, place)
    end_items(w, place)
    replica.batch = NONE
    turn(w, place, False)


_SOURCES = (
    "advance",
    "batches",
    "draws",
    "engines",
    "events",
    "memory",
    "parts",
    "records",
    "requests",
    "rooms",
    "slots",
    "windows",
)


# What is compiled with them of the modules that serve.
_SERVING = [Path(file) for file in (batch_policy.__file__, windows.__file__, budget.__file__, rates.__file__)]


def _digest() -> int:
    """Of the sources that are compiled together."""
    files = [Path(__file__).with_name(f"{name}.py") for name in _SOURCES] + _SERVING
    content = b"".join(file.read_bytes() for file in files)
    return int.from_bytes(hashlib.sha256(content).digest()[:7], "big")


def _entry(digest: int) -> Callable[[Any, float], int]:
    @numba.njit(cache=True, error_model="numpy", nogil=True)  # runs of several seeds go side by side, in threads
    def advance(state: Any, until: float) -> int:
        # Numba keeps compiled code by the file of this function and the values it closes over, and does not look at the
        # functions that it calls: the digest makes code of other sources other code.
        return _run(state[0], until) if digest else DONE

    return advance


advance = _entry(_digest())
"""Runs a world until a time: `DONE`; `CROWDED` when its pools must be enlarged first; `ALARMED` after a wait that is
longer than the world's `alarm_s`."""
