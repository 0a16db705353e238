"""Consistent hashing with bounded loads: repeats of one image go to the replica that has it cached, up to a point.

Mirrokni, Thorup and Zadimoghaddam 2018, "Consistent Hashing with Bounded Loads": a request goes to the first replica on
the ring, clockwise from its key, whose load is below `1 + slack` times the mean. A popular image then spreads to the
next replicas instead of drowning one. Ray Serve's own consistent-hash router leaves a replica only when that is full.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter

SLACK = 0.25
# So few requests in progress overload no replica: engines batch them. Without this floor the bound of a nearly idle
# model is one, and since Ray Serve counts a request off a moment after its answer, the next repeat would exceed it.
FLOOR = 4

Key = TypeVar("Key")


def by_affinity(ring: Sequence[Key], loads: Mapping[Key, int], slack: float = SLACK, floor: int = 1) -> list[Key]:
    """Replicas in the order in which a request should try them.

    Args:
        ring: all replicas, clockwise from the request's key.
        loads: requests in progress at each; one that is not named has none.
        slack: how far above the mean a replica may be loaded, 0.25 for a quarter.
        floor: requests in progress that every replica may have whatever the mean.
    """
    if not ring:
        return []
    # The request itself counts, as in the paper: with nothing in progress anywhere, one must still fit.
    most = max(floor, math.ceil((1 + slack) * (sum(loads.get(key, 0) for key in ring) + 1) / len(ring)))
    within = [key for key in ring if loads.get(key, 0) < most]
    return within + [key for key in ring if key not in set(within)]


class BoundedLoadRouter(ConsistentHashRouter):
    """Ray Serve's ring, walked as `by_affinity` says. The key is the handle's `session_id`; without one, the request's
    own id spreads requests evenly."""

    def initialize_state(self, **settings: Any) -> None:
        """Called by Ray Serve. The whole ring is wanted, not a replica and two stand-ins."""
        super().initialize_state(num_fallback_replicas=1_000, **settings)

    def _lookup_ranked_replicas(self, routing_key: str) -> list[Any]:
        ring = super()._lookup_ranked_replicas(routing_key)
        cache = self.replica_queue_len_cache
        return by_affinity(ring, {key: cache.get(key) or 0 for key in ring}, floor=FLOOR)
