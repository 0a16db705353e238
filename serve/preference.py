"""On which nodes a model's replicas run, and on which else: Ray's label selectors.

Ray tries the selector, then each of the fallbacks in their order, and takes the first whose nodes have room. Resources
are the same whichever is taken: a fallback states labels only (`ray.actor`, option `fallback_strategy`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from serve.config.cluster import ClusterFile

ACCELERATOR_LABEL: Final = "ray.io/accelerator-type"
"""Ray itself puts it on every node in which it finds an accelerator, with the name that `node_pools.*.gpu` has."""


def by_card(cluster: ClusterFile, name: str) -> dict[str, Any]:
    """Options of an actor that prefers one kind of GPU to others, on any Ray cluster."""
    cards = [cluster.node_pools[pool].gpu for pool in cluster.pools_of(name)]
    return _options(ACCELERATOR_LABEL, [card for card in dict.fromkeys(cards) if card is not None])


def by_pool(cluster: ClusterFile, name: str, label: str) -> dict[str, Any]:
    """Options of an actor on nodes that have their pool's name as a label."""
    return _options(label, cluster.pools_of(name))


def _options(label: str, values: Sequence[str]) -> dict[str, Any]:
    selectors = [{label: value} for value in values]
    options: dict[str, Any] = {"label_selector": selectors[0]}
    if len(selectors) > 1:
        options["fallback_strategy"] = [{"label_selector": selector} for selector in selectors[1:]]
    return options
