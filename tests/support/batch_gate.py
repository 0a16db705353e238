"""A forward pass that waits to be let through, and what else tests of the batcher share."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from deployments.batching import Batcher, BatchLimits, SilentObserver


class Gate:
    """A forward pass (x -> 10 x) that runs only while the gate is open, and records its batches."""

    def __init__(self, *, opened: bool = False) -> None:
        self.batches: list[list[int]] = []
        self.running = 0
        self.entered = asyncio.Event()
        self._open = asyncio.Event()
        if opened:
            self._open.set()

    async def __call__(self, items: list[int]) -> list[int | BaseException]:
        self.batches.append(items)
        self.running += 1
        assert self.running == 1, "two batches ran at once"
        self.entered.set()
        await self._open.wait()
        self.running -= 1
        return [10 * item for item in items]

    def open(self) -> None:
        self._open.set()


class Recorder(SilentObserver):
    def __init__(self) -> None:
        self.ran: list[tuple[int, float, list[float]]] = []
        self.drops: list[str] = []
        self.retried: list[int] = []

    def batch_ran(self, *, items: int, cost: float, forward_s: float, waits_s: Sequence[float]) -> None:
        self.ran.append((items, cost, list(waits_s)))

    def dropped(self, reason: str) -> None:
        self.drops.append(reason)

    def retried_alone(self, items: int) -> None:
        self.retried.append(items)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


NO_WAIT = BatchLimits(max_wait_s=0)


async def settle() -> None:
    """Lets everything that can run now run."""
    for _ in range(20):
        await asyncio.sleep(0)


def start(batcher: Batcher[int, int], items: Sequence[int], **options: object) -> list[asyncio.Task[int]]:
    return [asyncio.create_task(batcher.submit(item, **options)) for item in items]  # type: ignore[arg-type]
