"""A call's items at their replica: as many are in work at once as the window that serves lets in, compiled."""

from __future__ import annotations

from typing import Any

from benchmarks.capacity.simulator.batches import prepare
from benchmarks.capacity.simulator.memory import items, most_tokens, nodes, replicas, slots, targets
from benchmarks.capacity.simulator.parts import part
from benchmarks.capacity.simulator.records import AT_REPLICA, NONE, REFUSED
from benchmarks.capacity.simulator.requests import fail, items_done
from benchmarks.capacity.simulator.slots import dead, free_item, new_item
from deployments import windows

_granted = part(windows.granted)


@part
def begin(w: Any, slot: int) -> None:
    """The replica has read the call (`Pipeline.run_all`): its first items go to the worker pool."""
    one = slots(w)[slot]
    target = targets(w)[nodes(w)[one.node].target]
    count = 1 if target.engine else nodes(w)[one.node].items
    one.begun = one.in_work = one.left = 0
    if count == 1:  # it needs no place
        _put(w, slot, 1)
    elif replicas(w)[one.replica].taken >= target.places:
        fail(w, slot, REFUSED)
    else:
        one.left = count
        _go_on(w, slot)


@part
def _go_on(w: Any, slot: int) -> None:
    """As many further items begin as there are places for."""
    one = slots(w)[slot]
    target = targets(w)[nodes(w)[one.node].target]
    replica = replicas(w)[one.replica]
    more = _granted(replica.taken, one.held, one.left, target.useful, target.places)
    replica.taken += more
    one.held += more
    _put(w, slot, min(one.held, one.left) - one.in_work)


@part
def _put(w: Any, slot: int, count: int) -> None:
    """So many of a call's items go to the worker pool."""
    one = slots(w)[slot]
    if replicas(w)[one.replica].pending + count > targets(w)[nodes(w)[one.node].target].max_pending:
        fail(w, slot, REFUSED)
        return
    one.in_work += count
    for _ in range(count):
        _begin_item(w, slot)


@part
def _begin_item(w: Any, slot: int) -> None:
    one = slots(w)[slot]
    node = nodes(w)[one.node]
    target = targets(w)[node.target]
    index = new_item(w, slot)
    item = items(w)[index]
    item.cost, item.deadline, item.lane = node.cost, one.own, node.lane
    item.begun, item.held, item.images = one.begun, 0, node.images
    if target.engine:
        item.prompt = max(1, one.prompt + node.images * target.image_tokens)
        item.output = max(1, min(one.output, most_tokens(w)[one.node * w.gear_count + one.gear]))
    one.begun += 1
    prepare(w, one.replica, index)


@part
def end_items(w: Any, place: int) -> None:
    """A replica's pass has ended: the calls of its batch are answered, or go on."""
    first = replicas(w)[place].batch
    if replicas(w)[place].taken > 0:
        _end_some(w, first)
    index = first
    while index != NONE:
        following, slot = items(w)[index].next, items(w)[index].slot
        if not dead(w, index) and slots(w)[slot].left == 0 and slots(w)[slot].phase == AT_REPLICA:
            items_done(w, slot)
        free_item(w, index)
        index = following


@part
def _end_some(w: Any, first: int) -> None:
    """The items from `first` on have ended, some of which are of calls with several.

    In the order of the event loop: a call asks for places once, however many of its items have ended, and before those
    of the calls that end now are given back.
    """
    index = first
    while index != NONE:
        if not dead(w, index):
            one = slots(w)[items(w)[index].slot]
            if one.held > 0:
                one.left -= 1
                one.in_work -= 1
        index = items(w)[index].next
    index = first
    while index != NONE:
        if not dead(w, index):
            one = slots(w)[items(w)[index].slot]
            if one.in_work < min(one.held, one.left):
                _go_on(w, items(w)[index].slot)
        index = items(w)[index].next
