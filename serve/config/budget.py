"""Does it fit? GPU memory and CPU cores of a cluster file, summed for each node pool."""

from __future__ import annotations

from dataclasses import dataclass

from deployments.gpu import CONTEXT_GB, NEEDS, Claim, Packing, pack
from serve.config.cluster import ClusterFile
from serve.config.models import CheckpointModel


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
    result = []
    for pool_name, pool in cluster.node_pools.items():
        models = {name: model for name, model in cluster.models.items() if cluster.pool_of(name) == pool_name}
        claims = tuple(
            Claim(name, model.gpu_memory_gb, max(1, model.autoscaling.min_replicas))
            for name, model in models.items()
            if model.gpu_memory_gb
        )
        gpus = pool.gpus * max(1, pool.min_nodes)
        asked = sum(m.placement.num_cpus * max(1, m.autoscaling.min_replicas) for m in models.values())
        result.append(
            PoolBudget(
                pool_name,
                claims,
                pack(claims, gpus, pool.gpu_memory_gb),
                gpus * pool.gpu_memory_gb,
                (asked, float(pool.cpus * max(1, pool.min_nodes))),
            )
        )
    return result


def problems(cluster: ClusterFile) -> list[str]:
    """Why the cluster file cannot run, one line each; empty when everything fits."""
    found = [line for name in cluster.models for line in _model_problems(cluster, name)]
    for budget in budgets(cluster):
        if budget.packing.homeless:
            found.append(
                f"node_pools.{budget.pool}: GPU memory does not suffice: {budget.sum_line()}; "
                f"no room for {', '.join(budget.packing.homeless)}"
            )
        asked, available = budget.cpus
        if asked > available:
            found.append(
                f"node_pools.{budget.pool}.cpus: its models reserve {asked:g} cores (placement.num_cpus), "
                f"its fewest nodes have {available:g}"
            )
    return found


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
