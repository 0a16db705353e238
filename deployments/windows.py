"""How many items of one call are in flight at once.

A call may bring thousands of items (labels times templates), more than the queues behind it hold. Started together they
would refuse one another on an idle model; started by the window they all get through, and the model is as busy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Out = TypeVar("Out")


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
        alone = self._taken == held
        left = self._most - self._taken
        granted = max(min(min(wanted, self._useful) - held, left if alone else left // 2), 0 if held else 1)
        self._taken += granted
        return granted
