"""Are the pools that a model prefers pools on which it can run?"""

from __future__ import annotations

from collections.abc import Iterator

from deployments.gpu import gpu_fraction
from serve.config.cluster import ClusterFile
from serve.config.models import Model


def placement_problems(cluster: ClusterFile) -> Iterator[str]:
    """One line for each wrong name in a `placement`."""
    pools = ", ".join(cluster.node_pools)
    for name, model in cluster.models.items():
        key, pool = f"models.{name}.placement", model.placement.pool
        if pool is not None and pool not in cluster.node_pools:
            yield f"{key}.pool: got {pool!r}; it must be one of {pools}"
        elif pool is None and len(cluster.node_pools) > 1:
            yield f"{key}.pool: is missing; with several node_pools it must be one of {pools}"
        else:
            yield from _fallback_problems(cluster, name, model)


def _fallback_problems(cluster: ClusterFile, name: str, model: Model) -> Iterator[str]:
    key, seen = f"models.{name}.placement.fallback_pools", [cluster.pool_of(name)]
    for fallback in model.placement.fallback_pools:
        if fallback not in cluster.node_pools:
            yield f"{key}: got {fallback!r}; it must be one of {', '.join(cluster.node_pools)}"
            return
        if fallback in seen:
            yield f"{key}: got {fallback!r} twice, or as `pool` too; each pool stands once, the preferred one first"
            return
        seen.append(fallback)
    if model.gpu_memory_gb and len(seen) > 1:
        yield from _card_problems(cluster, name, model.gpu_memory_gb, seen)


def _card_problems(cluster: ClusterFile, name: str, budget_gb: float, pools: list[str]) -> Iterator[str]:
    """Ray knows one share for all cards, and tells cards apart by their names."""
    for pool_name in pools:
        pool = cluster.node_pools[pool_name]
        if not pool.gpus:
            yield (
                f"models.{name}.placement: pool {pool_name!r} has no GPU, and gpu_memory_gb is {budget_gb:g}; "
                "it must have some, or not be named here"
            )
        elif budget_gb > pool.gpu_memory_gb:
            yield (
                f"models.{name}.gpu_memory_gb: got {budget_gb:g}; with fallback_pools it must fit a GPU of each pool, "
                f"and one of {pool_name!r} has {pool.gpu_memory_gb:g}"
            )
        elif pool.gpu is None:
            yield f"node_pools.{pool_name}.gpu: is missing; models.{name} prefers one GPU to another by their names"


def placement_notes(cluster: ClusterFile) -> list[str]:
    """What a preference costs: on a large card, the share that a small one needs is more memory than the budget."""
    notes = []
    for name, model in cluster.models.items():
        pools = cluster.pools_of(name)
        if not model.gpu_memory_gb or len(pools) == 1:
            continue
        share = gpu_share(cluster, name)
        taken = ", ".join(f"{share * cluster.node_pools[pool].gpu_memory_gb:g} GB on {pool}" for pool in pools)
        notes.append(
            f"models.{name}: a replica takes {share:g} of a GPU on each of its pools, for {model.gpu_memory_gb:g} GB "
            f"on the smallest card: {taken}"
        )
    return notes


def gpu_share(cluster: ClusterFile, name: str) -> float:
    """Ray's `num_gpus` of a replica of the model: enough for its budget on whichever of its pools it runs."""
    budget_gb = cluster.models[name].gpu_memory_gb
    return max(gpu_fraction(budget_gb, cluster.node_pools[pool].gpu_memory_gb) for pool in cluster.pools_of(name))
