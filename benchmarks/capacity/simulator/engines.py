"""A replica with continuous batching: after every step, sequences that are done leave and others come in.

The order is that of vLLM's scheduler (vllm/v1/core/sched/scheduler.py, 0.32): a step has a budget of tokens; first each
running sequence takes its next token, or the next chunk of its prompt, then waiting ones are admitted while budget,
places and cache last. When the cache is full, the sequence that came last gives up its part and begins anew.

The budget is never overdrawn: a sequence is admitted only while some of it is left and takes at least one token, so no
more sequences run than it has tokens; and only the last of them can be within its prompt, which takes what is left.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.capacity.simulator import draws
from benchmarks.capacity.simulator.events import served, work
from benchmarks.capacity.simulator.memory import (
    flows,
    heads,
    items,
    replicas,
    running,
    slots,
    tails,
    targets,
)
from benchmarks.capacity.simulator.parts import part
from benchmarks.capacity.simulator.records import IDLE, NONE, PASSED, RUNNING, SHARED, SPENT, TOLD
from benchmarks.capacity.simulator.requests import items_done
from benchmarks.capacity.simulator.slots import dead, free_item, loop_s

# Who is told of a stream's message after the replica, one after the other.
_ROUTER, _INGRESS = 0, 1


@part
def step(w: Any, place: int) -> None:
    """Begins the next step of an engine, unless it has nothing to do."""
    replica = replicas(w)[place]
    target = targets(w)[replica.target]
    _drop_dead(w, place)
    budget, decoding, prefilling, encode_s = target.step_tokens, 0, 0, 0.0
    at = 0
    while at < replica.sequences:
        item = items(w)[running(w)[place * w.run_width + at]]
        if item.prompt > 0:
            item.chunk = min(item.prompt, budget)
            budget -= item.chunk
            prefilling += item.chunk
        else:
            item.chunk = 0
            budget -= 1
            decoding += 1
        while replica.kv + decoding + prefilling > target.kv_tokens and replica.sequences > at + 1:
            _preempt(w, place)
        at += 1
    while replica.waiting > 0 and replica.sequences < target.max_sequences and budget > 0:
        index = heads(w)[place * w.lane_width + 0]
        if dead(w, index):
            _shift(w, place)
            free_item(w, index)
            continue
        item = items(w)[index]
        if replica.kv + decoding + prefilling + item.prompt > target.kv_tokens and replica.sequences > 0:
            break
        _shift(w, place)
        encode_s += target.encode_s * item.images
        item.images = 0
        item.chunk = min(item.prompt, budget)
        budget -= item.chunk
        prefilling += item.chunk
        if not item.begun:
            item.begun = 1
            replica.wait_s += w.now - item.enqueued
        running(w)[place * w.run_width + replica.sequences] = index
        replica.sequences += 1
    if replica.sequences == 0:
        replica.doing = IDLE
        return
    _run(w, place, decoding, prefilling, encode_s)


@part
def _run(w: Any, place: int, decoding: int, prefilling: int, encode_s: float) -> None:
    replica = replicas(w)[place]
    target = targets(w)[replica.target]
    key = (np.int64(place) << 40) + replica.passes
    seconds = target.step_s + target.sequence_s * decoding + target.token_s * prefilling + encode_s
    if target.residual != NONE:
        seconds *= draws.drawn(w, target.residual, draws.uniform(w.seed, draws.PASS, key))
    replica.doing, replica.began = RUNNING, w.now
    replica.passes += 1
    replica.ran += replica.sequences
    work(w, target.slowdown * seconds, target.cores, PASSED, place, 0)


@part
def step_ended(w: Any, place: int) -> None:
    """Every running sequence has a token more, or a part of its prompt less; those that are done are answered."""
    replica = replicas(w)[place]
    replica.busy_s += w.now - replica.began
    kept = 0
    for which in range(replica.sequences):
        index = running(w)[place * w.run_width + which]
        item = items(w)[index]
        if item.prompt > 0:
            item.prompt -= item.chunk
            item.held += item.chunk
            replica.kv += item.chunk
            if item.prompt == 0:
                item.output -= 1
        else:
            item.held += 1
            replica.kv += 1
            item.output -= 1
        if item.prompt == 0 and item.output <= 0:
            replica.kv -= item.held
            if not dead(w, index):
                items_done(w, item.slot)
            free_item(w, index)
        else:
            if item.prompt == 0 and not dead(w, index):
                _tell(w, place, item.slot)
            running(w)[place * w.run_width + kept] = index
            kept += 1
    replica.sequences = kept


@part
def _tell(w: Any, place: int, slot: int) -> None:
    """A token that is not the last: the replica is told of it, and whoever waits for it where it is streamed."""
    if w.mode != SHARED:
        return
    router = slots(w)[slot].router
    if flows(w)[slots(w)[slot].flow].streamed:
        served(w, w.routers + place, loop_s(w, slot), TOLD, router, _ROUTER)
    else:
        served(w, w.routers + place, loop_s(w, slot), SPENT, 0, 0)


@part
def told(w: Any, router: int, following: int) -> None:
    """A message goes from process to process, so that only one of them works at it at a time. What it costs beyond the
    replica is counted with its request; only that somebody must be woken for it is not. It counts as a wake-up also
    where that costs nothing yet: what it costs is found by the count. The load generator is not woken: what that costs
    is for sending the next request, and a message takes it a fifth of it."""
    if following == _ROUTER:
        served(w, router, 0.0, TOLD, router, _INGRESS)
    else:
        served(w, w.ingress, 0.0, SPENT, 0, 0)


@part
def _drop_dead(w: Any, place: int) -> None:
    """What nobody waits for any more is aborted."""
    replica = replicas(w)[place]
    kept = 0
    for which in range(replica.sequences):
        index = running(w)[place * w.run_width + which]
        if dead(w, index):
            replica.kv -= items(w)[index].held
            free_item(w, index)
        else:
            running(w)[place * w.run_width + kept] = index
            kept += 1
    replica.sequences = kept


@part
def _preempt(w: Any, place: int) -> None:
    """The last one in goes back to the head of the queue, to be computed anew."""
    replica = replicas(w)[place]
    replica.sequences -= 1
    index = running(w)[place * w.run_width + replica.sequences]
    item = items(w)[index]
    replica.kv -= item.held
    item.prompt += item.held
    item.held = 0
    item.next = heads(w)[place * w.lane_width + 0]
    if item.next == NONE:
        tails(w)[place * w.lane_width + 0] = index
    heads(w)[place * w.lane_width + 0] = index
    replica.waiting += 1


@part
def _shift(w: Any, place: int) -> None:
    heads(w)[place * w.lane_width + 0] = items(w)[heads(w)[place * w.lane_width + 0]].next
    replicas(w)[place].waiting -= 1
