"""What a replica takes while it runs: the `user_config` that `serve.rollout.live_settings` makes of a cluster file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from deployments.base import Pipeline
from deployments.batching import BatchLimits
from serve.config.model_base import Batching


def batch_limits(batching: Batching) -> BatchLimits:
    """The batcher's limits, as a cluster file has them."""
    return BatchLimits(
        batching.max_items, batching.max_cost or math.inf, batching.max_wait_ms / 1e3, batching.max_queue
    )


class Rebatched:
    """Base of replicas whose `_pipeline` runs the batches. Batches larger than those at the start are not warmed up."""

    _pipeline: Pipeline[Any, Any, Any, Any]
    _max_items: int

    async def reconfigure(self, live: Mapping[str, Any]) -> None:
        """Called by Ray Serve: at the start, and when the settings have changed."""
        batching = Batching.model_validate(live["batching"])
        self._pipeline.limit(batch_limits(batching))
        self._max_items = batching.max_items
