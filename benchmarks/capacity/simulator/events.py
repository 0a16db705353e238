"""Time: the heap of events, and processor work, which takes longer where cores are short.

Cores are shared evenly by all work in progress: every job advances at the same rate, so jobs end in the order of what
was left of them on a clock of the cores' own, which runs slower the more there are (virtual time, Demers, Keshav and
Shenker 1989).
"""

from __future__ import annotations

import math
from typing import Any

from benchmarks.capacity.simulator.memory import (
    cpu_heap,
    free_jobs,
    heap,
    jobs,
    paces,
    servers,
)
from benchmarks.capacity.simulator.parts import part
from benchmarks.capacity.simulator.records import (
    FREE,
    NONE,
    REPACED,
    SERVED,
    SHARED,
    SPENT,
)

_LEAST_CORES = 0.05


@part
def push(w: Any, time: float, what: int, who: int, stamp: int) -> None:
    """An event at `time`."""
    place = w.heap_count
    w.heap_count = place + 1
    events = heap(w)
    while place > 0:
        above = (place - 1) >> 1
        if events[above].time <= time:
            break
        _move(events, above, place)
        place = above
    _put(events, place, time, what, who, stamp, 0.0)


@part
def drop_first(events: Any, count: int) -> None:
    """Removes the first of `count` events."""
    last = count - 1
    time = events[last].time
    place = 0
    while True:
        below = 2 * place + 1
        if below >= last:
            break
        if below + 1 < last and events[below + 1].time < events[below].time:
            below += 1
        if events[below].time >= time:
            break
        _move(events, below, place)
        place = below
    if place != last:
        _move(events, last, place)


@part
def _put(events: Any, place: int, time: float, what: int, who: int, stamp: int, cores: float) -> None:
    event = events[place]
    event.time = time
    event.what = what
    event.who = who
    event.stamp = stamp
    event.cores = cores


@part
def _move(events: Any, source: int, place: int) -> None:
    one, other = events[source], events[place]
    other.time = one.time
    other.what = one.what
    other.who = one.who
    other.stamp = one.stamp
    other.cores = one.cores


@part
def work(w: Any, seconds: float, cores: float, what: int, who: int, stamp: int) -> None:
    """Processor work that begins now, in a thread of its own; an event when it ends.

    Args:
        cores: that it keeps busy; 0 where it runs on an accelerator.
    """
    if w.mode == FREE or cores == 0.0:
        push(w, w.now + seconds, what, who, stamp)
        return
    _share(w)
    virtual = w.virtual + seconds
    w.weight += cores
    place = w.cpu_count
    w.cpu_count = place + 1
    events = cpu_heap(w)
    while place > 0:
        above = (place - 1) >> 1
        if events[above].time <= virtual:
            break
        _move(events, above, place)
        place = above
    _put(events, place, virtual, what, who, stamp, cores)


@part
def rate(w: Any) -> float:
    """Seconds of work that each job gets done in a second, on shared cores."""
    weight = w.weight
    if weight == 0.0:
        return 1.0 / w.pace
    cores = min(weight, w.cores - w.background) - w.imbalance * _left_empty(w)
    return min(1.0, max(_LEAST_CORES, cores) / weight) / w.pace


@part
def _left_empty(w: Any) -> float:
    """Cores without any work, although there is enough for them, if work is put on cores by chance: balls in bins."""
    by_chance = w.cores * (1.0 - 1.0 / w.cores) ** w.weight if w.cores > 1.0 else 0.0
    return max(0.0, by_chance - max(0.0, w.cores - w.weight))


@part
def _share(w: Any) -> None:
    """Brings the cores' clock to now."""
    w.virtual += (w.now - w.virtual_at) * rate(w)
    w.virtual_at = w.now


@part
def change_pace(w: Any) -> None:
    """The cores go on at the next pace; from the last one on they keep it."""
    _share(w)
    w.pace = paces(w)[w.pace_at]
    w.pace_at += 1
    if w.pace_at < w.pace_count:
        push(w, w.now + w.pace_s, REPACED, 0, 0)


@part
def next_work_s(w: Any) -> float:
    """When the next work on shared cores ends, if nothing more comes."""
    if w.cpu_count == 0:
        return math.inf
    return w.virtual_at + max(0.0, cpu_heap(w)[0].time - w.virtual) / rate(w)


@part
def end_work(w: Any) -> None:
    """Takes the work that ends now off the cores."""
    _share(w)
    w.virtual = max(w.virtual, cpu_heap(w)[0].time)
    count = w.cpu_count
    w.weight = 0.0 if count == 1 else w.weight - cpu_heap(w)[0].cores
    drop_first(cpu_heap(w), count)
    w.cpu_count = count - 1


@part
def served(w: Any, server: int, seconds: float, what: int, who: int, stamp: int) -> None:
    """A job of a single-threaded server, after those that it has; an event when it is done.

    A server that had none is woken for it: its thread is switched to, its loop asks the kernel what has come.
    """
    if w.mode == FREE:
        push(w, served_at(w, server, seconds), what, who, stamp)
        return
    w.free_job_count -= 1
    index = free_jobs(w)[w.free_job_count]
    job = jobs(w)[index]
    job.work, job.what, job.who, job.stamp, job.next = seconds, what, who, stamp, NONE
    queue = servers(w)[server]
    if queue.busy:
        jobs(w)[queue.tail].next = index
    else:
        queue.head = index
        queue.busy = 1
        queue.woken += 1
        work(w, seconds + queue.wake_s, 1.0, SERVED, server, 0)
    queue.tail = index


@part
def served_at(w: Any, server: int, seconds: float) -> float:
    """When a job is done that comes now, where cores are never short."""
    queue = servers(w)[server]
    if queue.free <= w.now:
        queue.woken += 1
        seconds += queue.wake_s
    queue.free = max(w.now, queue.free) + seconds
    return queue.free


@part
def next_job(w: Any, server: int) -> None:
    """A server on shared cores has done its first job: what waited for that goes on, and the next job begins."""
    queue = servers(w)[server]
    index = queue.head
    job = jobs(w)[index]
    push(w, w.now, job.what, job.who, job.stamp)
    queue.head = job.next
    free_jobs(w)[w.free_job_count] = index
    w.free_job_count += 1
    if queue.head == NONE:
        queue.busy = 0
    else:
        work(w, jobs(w)[queue.head].work, 1.0, SERVED, server, 0)


@part
def spend(w: Any, server: int, seconds: float) -> None:
    """Processor work of the node that no request waits for in our reckoning: ingress, load generator."""
    if w.mode == SHARED and seconds + servers(w)[server].wake_s > 0.0:
        served(w, server, seconds, SPENT, 0, 0)
