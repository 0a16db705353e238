"""Does it fit? GPU memory and CPU cores of a cluster file, summed for each node pool."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from deployments.gpu import CONTEXT_GB, NEEDS, Claim, Packing, pack, spread
from serve.config.cluster import ClusterFile
from serve.config.memory import memory
from serve.config.model_base import CheckpointModel
from serve.config.models import Model
from serve.config.placement_checks import gpu_share


@dataclass(frozen=True, slots=True)
class PoolBudget:
    """What the models of one pool ask of its fewest nodes.

    Attributes:
        pool: name of the node pool.
        claims: one a model, with its fewest replicas.
        packing: how they fall onto the pool's GPUs.
        available_gb: GPU memory of the fewest nodes, in GB.
        cpus: cores asked for, and cores there are.
    """

    pool: str
    claims: tuple[Claim, ...]
    packing: Packing
    available_gb: float
    cpus: tuple[float, float]

    def sum_line(self) -> str:
        """`clip 4 + llava 2 x 14 = 32 of 40 GB`"""
        terms = [f"{c.model} {'' if c.replicas == 1 else f'{c.replicas} x '}{c.budget_gb:g}" for c in self.claims]
        total = sum(c.budget_gb * c.replicas for c in self.claims)
        return f"{' + '.join(terms) or 'nothing'} = {total:g} of {self.available_gb:g} GB"


def budgets(cluster: ClusterFile) -> list[PoolBudget]:
    """One budget for each node pool, in the file's order."""
    settled = _settled(cluster)
    return [_budget(cluster, pool, settled[pool]) for pool in cluster.node_pools]


def _budget(cluster: ClusterFile, pool_name: str, replicas: Mapping[str, int]) -> PoolBudget:
    """Of one pool with so many replicas of each model."""
    pool = cluster.node_pools[pool_name]
    claims = tuple(
        Claim(name, _budget_gb(cluster, pool_name, name), replicas[name])
        for name, model in cluster.models.items()
        if name in replicas and model.gpu_memory_gb
    )
    nodes = max(1, pool.min_nodes)
    asked = sum(cluster.models[name].placement.num_cpus * count for name, count in replicas.items())
    return PoolBudget(
        pool_name,
        claims,
        pack(claims, pool.gpus, pool.gpu_memory_gb, nodes=nodes),
        nodes * pool.gpus * pool.gpu_memory_gb,
        (asked, float(pool.cpus * nodes)),
    )


def _budget_gb(cluster: ClusterFile, pool: str, name: str) -> float:
    """What a replica takes of a card of the pool: more than its budget where a smaller card sets its share."""
    model = cluster.models[name]
    if not model.placement.fallback_pools:
        return model.gpu_memory_gb
    return gpu_share(cluster, name) * cluster.node_pools[pool].gpu_memory_gb


def _settled(cluster: ClusterFile) -> dict[str, dict[str, int]]:
    """The fewest replicas of each model, by pool: those with a choice go, one by one, where the others leave room."""
    found: dict[str, dict[str, int]] = {pool: {} for pool in cluster.node_pools}
    for name, model in cluster.models.items():
        if not model.placement.fallback_pools:
            found[cluster.pool_of(name)][name] = _replicas(model)
    for name, model in cluster.models.items():
        for _ in range(_replicas(model) if model.placement.fallback_pools else 0):
            more = {pool: found[pool] | {name: found[pool].get(name, 0) + 1} for pool in cluster.pools_of(name)}
            roomy = (pool for pool in more if _fits(_budget(cluster, pool, more[pool])))
            chosen = next(roomy, cluster.pool_of(name))
            found[chosen] = more[chosen]
    return found


def _fits(budget: PoolBudget) -> bool:
    asked, available = budget.cpus
    return not budget.packing.homeless and asked <= available


def _replicas(model: Model) -> int:
    """Replicas that must fit on the fewest nodes: a model that scales to zero still needs room for one."""
    return max(1, model.autoscaling.min_replicas)


def problems(cluster: ClusterFile) -> list[str]:
    """Why the cluster file cannot run, one line each; empty when everything fits."""
    measured = {one.model: one.problem() for one in memory(cluster)}
    found = []
    for name in cluster.models:
        plain = _model_problems(cluster, name)
        # What is plainly too little need not be summed up as well.
        found += plain or [problem for problem in (measured.get(name),) if problem is not None]
    for budget in budgets(cluster):
        pool = cluster.node_pools[budget.pool]
        if pool.gpus and budget.packing.homeless:
            found.append(
                f"node_pools.{budget.pool}: GPU memory does not suffice: {budget.sum_line()} on "
                f"{max(1, pool.min_nodes)} x {pool.gpus} GPUs; no room for {', '.join(budget.packing.homeless)}"
            )
        found.extend(_core_problems(cluster, budget))
    return found + _router_problems(cluster)


def packing_notes(cluster: ClusterFile) -> Iterator[str]:
    """Pools whose replicas fit, but may not as Ray spreads them over the nodes."""
    for budget in budgets(cluster):
        pool = cluster.node_pools[budget.pool]
        if cluster.pack_nodes or not pool.gpus or budget.packing.homeless:
            continue
        found = spread(budget.claims, pool.gpus, pool.gpu_memory_gb, nodes=max(1, pool.min_nodes))
        if found.homeless:
            yield (
                f"node_pools.{budget.pool}: {budget.sum_line()} fits on {pool.min_nodes} nodes only if it is packed; "
                f"spread over them as replicas are, it may leave no room for {', '.join(found.homeless)}: set "
                "pack_nodes: true, name large models first, or give it a node more"
            )


def _core_problems(cluster: ClusterFile, budget: PoolBudget) -> Iterator[str]:
    asked, available = budget.cpus
    per_node = cluster.node_pools[budget.pool].cpus
    for name, model in cluster.models.items():
        if budget.pool in cluster.pools_of(name) and model.placement.num_cpus > per_node:
            yield (
                f"models.{name}.placement.num_cpus: got {model.placement.num_cpus:g}; a node of pool "
                f"{budget.pool!r} has {per_node}"
            )
    if asked > available:
        yield (
            f"node_pools.{budget.pool}.cpus: its models reserve {asked:g} cores (placement.num_cpus), "
            f"its fewest nodes have {available:g}"
        )


def _router_problems(cluster: ClusterFile) -> list[str]:
    """Routers may run in any pool, so they are counted against all cores together."""
    router = cluster.router.num_cpus * cluster.router.replicas
    models = sum(budget.cpus[0] for budget in budgets(cluster))
    available = sum(budget.cpus[1] for budget in budgets(cluster))
    if models <= available < models + router:
        return [
            f"router.num_cpus: got {cluster.router.num_cpus:g} for {cluster.router.replicas} replicas; with the "
            f"models' {models:g} that makes {models + router:g} cores, and the fewest nodes have {available:g}"
        ]
    return []


def _model_problems(cluster: ClusterFile, name: str) -> list[str]:
    model = cluster.models[name]
    budget, key = model.gpu_memory_gb, f"models.{name}.gpu_memory_gb"
    found = []
    if budget and not cluster.node_pools[cluster.pool_of(name)].gpus:
        found.append(f"{key}: got {budget:g}, but pool {cluster.pool_of(name)!r} has no GPU; it must be 0 there")
    elif 0 < budget <= CONTEXT_GB:
        found.append(f"{key}: got {budget:g}; a CUDA context alone takes {CONTEXT_GB:g}, so it must be more")
    need = NEEDS.get(model.kind)
    if budget and need and isinstance(model, CheckpointModel):
        least = {"none": need.minimum, "4bit": need.four_bit}.get(model.quantization)
        if least is not None and budget < least:
            four_bit = f", {need.four_bit:g} at 4 bits" if need.four_bit else ""
            found.append(
                f"{key}: got {budget:g}; {model.kind} needs at least {need.minimum:g} at 16 bits{four_bit} "
                f"({need.recommended:g} recommended)"
            )
    return found
