"""How many items of one call are in flight at once.

A call may bring thousands of items (labels times templates), more than the queues behind it hold. Started together they
would refuse one another on an idle model; started by the window they all get through, and the model is as busy.

What is decided are the pure functions at the top: `Windows` serves by them, the simulator
(benchmarks/capacity/simulator) compiles them and plans by them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Out = TypeVar("Out")


def places(max_items: int, max_queue: int, max_pending: int) -> tuple[int, int]:
    """Items of one call that are worth having in flight, so that the next batch is prepared while one runs; and most of
    all calls together, which the queues hold.

    Args:
        max_items: of a batch.
        max_queue: of the batcher.
        max_pending: of the pool before it.
    """
    most = min(max_queue, max_pending)
    return min(2 * max_items, most), most


def granted(taken: int, held: int, wanted: int, useful: int, most: int) -> int:
    """Further places that a call gets.

    Args:
        taken: by all calls.
        held: by this one; they are among the taken ones.
        wanted: that it could fill, with those that it holds.
        useful, most: see `Windows`.
    """
    left = most - taken
    return max(min(min(wanted, useful) - held, left if taken == held else left // 2), 0 if held else 1)


class Windows:
    """Places for items, shared by the calls that bring many.

    A call alone gets as many places as are useful to it. One beside others gets at most half of what they leave, so
    that the next one finds some, too; it gets more as they end. What it has it keeps to its end, so that a call which
    has begun is not refused half-way.

    Args:
        useful: most places of one call: beyond these it would not go faster.
        most: places of all calls together: what the queues hold.
    """

    def __init__(self, useful: int, most: int) -> None:
        self.resize(useful, most)
        self._taken = 0

    def resize(self, useful: int, most: int) -> None:
        """Other bounds, for the places that are given from now on."""
        self._useful, self._most = min(useful, most), most

    @property
    def full(self) -> bool:
        """Whether no place is left for another call."""
        return self._taken >= self._most

    async def map(self, function: Callable[[Item], Awaitable[Out]], items: Sequence[Item]) -> list[Out]:
        """`function` of each item, in their order. Cancelling this cancels what it began.

        Args:
            function: must not raise.
            items: of a call that came while there were places; see `full`.
        """
        held = running = 0
        ended = asyncio.Event()
        tasks: list[asyncio.Task[Out]] = []

        async def run(item: Item) -> Out:
            nonlocal running
            try:
                return await function(item)
            finally:
                running -= 1
                ended.set()

        try:
            async with asyncio.TaskGroup() as group:
                while (begun := len(tasks)) < len(items):
                    held += self._grant(held, running + len(items) - begun)
                    for item in items[begun : begun + held - running]:
                        running += 1
                        tasks.append(group.create_task(run(item)))
                    ended.clear()
                    await ended.wait()
        finally:
            self._taken -= held
        return [task.result() for task in tasks]

    def _grant(self, held: int, wanted: int) -> int:
        """Further places for a call that has `held` and could fill `wanted`; how many."""
        more = granted(self._taken, held, wanted, self._useful, self._most)
        self._taken += more
        return more
