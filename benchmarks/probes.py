"""The two batchers of `argus bench batching` as deployments. Apart from it, because this module imports Ray."""

from __future__ import annotations

from ray import serve

from benchmarks.batching import MAX_ITEMS, Probe
from deployments.batching import Batcher, BatchLimits


class ArgusProbe(Probe):
    """Batches with `deployments.batching.Batcher`."""

    def __init__(self, wait_s: float) -> None:
        super().__init__(wait_s)
        self._batcher: Batcher[int, int] = Batcher(
            self._forward, BatchLimits(max_items=MAX_ITEMS, max_wait_s=wait_s, max_queue=100_000)
        )

    async def submit(self, item: int) -> int:
        """See `Probe.submit`."""
        return await self._batcher.submit(item)


class RayProbe(Probe):
    """Batches with `@serve.batch`."""

    def __init__(self, wait_s: float) -> None:
        super().__init__(wait_s)
        self._batched.set_batch_wait_timeout_s(wait_s)

    async def submit(self, item: int) -> int:
        """See `Probe.submit`."""
        return await self._batched(item)

    @serve.batch(max_batch_size=MAX_ITEMS)
    async def _batched(self, items: list[int]) -> list[int]:
        return await self._forward(items)
