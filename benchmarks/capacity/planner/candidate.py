"""One answer to a problem: nodes, what runs on them, what others host, and the cluster file that says so."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.capacity.planner.catalogue import bought
from benchmarks.capacity.planner.layout import Placed, Pool
from benchmarks.capacity.planner.options import Called
from benchmarks.capacity.planner.problem import Problem
from benchmarks.capacity.profiles import HardwareProfile
from benchmarks.capacity.scenario import Scenario, scenario
from serve.config.cascades import Cascade, CascadeStep
from serve.config.cluster import ClusterFile, NodePool
from serve.config.model_base import StoreModel

# A router's process does requests one after the other: above this use of its core they wait for each other.
_ROUTER_USE = 0.6
# Share of the time that an objective leaves which calls may spend in the queue of a model that overflows.
_OVERFLOW_WAIT = 0.25


@dataclass(frozen=True, slots=True)
class Candidate:
    """A cluster that may hold the objectives.

    Attributes:
        pools: by the kind of node, in the catalogue's order; none without nodes.
        called: stages that a provider stands in for.
        queues: most calls that wait in a replica, of stages whose surplus goes to a provider.
        routers: replicas.
    """

    pools: tuple[Pool, ...]
    called: tuple[Called, ...]
    queues: Mapping[str, int]
    routers: int

    @property
    def nodes(self) -> dict[str, int]:
        """How many of each kind."""
        return {pool.node: pool.nodes for pool in self.pools}

    @property
    def placed(self) -> dict[str, tuple[str, Placed]]:
        """Kind of node and placement, by stage."""
        return {one.option.stage: (pool.node, one) for pool in self.pools for one in pool.placed}


def assemble(
    problem: Problem, pools: tuple[Pool, ...], called: tuple[Called, ...], within: Mapping[str, float]
) -> Candidate | None:
    """The candidate, with routers for the load; None where the nodes lack cores for those and the stores.

    Args:
        within: seconds that a call of a stage may take by its objectives.
    """
    home = _home(problem, pools[0].node)
    busy = problem.rate_per_s * (home.router.cpu.mean + home.router.ingress_cpu_s)
    routers = max(problem.cluster.router.replicas if home.cores == 0 else 1, math.ceil(busy / _ROUTER_USE))
    asked = routers * problem.cluster.router.num_cpus + sum(
        model.placement.num_cpus for model in kept_stores(problem.cluster).values()
    )
    if sum(pool.spare_cpus for pool in pools) < asked - 1e-9 or routers > 64:
        return None
    queues = {
        one.option.stage: max(
            one.option.max_items,
            int(one.option.capacity_per_s * _OVERFLOW_WAIT * min(10.0, within.get(one.option.stage, 10.0))),
        )
        for pool in pools
        for one in pool.placed
        if one.option.overflow is not None
    }
    return Candidate(pools, called, queues, routers)


def kept_stores(cluster: ClusterFile) -> dict[str, Any]:
    """Stores of the base file: they cost cores, no GPU, and routes rest on them."""
    return {name: model for name, model in cluster.models.items() if isinstance(model, StoreModel)}


def cluster_of(problem: Problem, candidate: Candidate, *, most: Mapping[str, int] | None = None) -> ClusterFile:
    """The cluster file: the base with pools, replicas, budgets and batch limits of the candidate, and without what no
    flow asks.

    Args:
        most: replicas up to which a stage may grow, by stage; by default as many as are planned.
    """
    base = problem.cluster
    most = most or {}
    models: dict[str, Any] = {
        stage: _model(problem, stage, node, one, candidate.queues.get(stage), most.get(stage, one.replicas))
        for stage, (node, one) in candidate.placed.items()
    }
    models |= _stores(base, candidate)
    cascades = {flow.entry: base.cascades[flow.entry] for flow in problem.flows if flow.entry in base.cascades}
    for one in candidate.called:
        cascades = {name: _stood_in(cascade, one) for name, cascade in cascades.items()}
    targets = base.resilience.targets
    kept = {name: target for name, target in targets.items() if name in models or name in base.providers}
    return base.model_copy(
        update={
            "node_pools": {pool.node: _node_pool(problem, pool, most) for pool in candidate.pools},
            "models": models,
            "cascades": cascades,
            "resilience": base.resilience if kept == targets else base.resilience.model_copy(update={"targets": kept}),
            "router": base.router.model_copy(update={"replicas": candidate.routers}),
            # What these name may not be there any more.
            "support": None,
            "videos": None,
            "documents": None,
        }
    )


def _model(problem: Problem, stage: str, node: str, one: Placed, queue: int | None, most: int) -> Any:
    model = problem.cluster.models[stage]
    kind = problem.catalogue.nodes[node]
    batching: dict[str, Any] = {"max_items": one.option.max_items}
    if queue is not None:
        batching["max_queue"] = queue
    return model.model_copy(
        update={
            "gpu_memory_gb": round(one.fraction * kind.gpu_memory_gb / 10_000, 6),
            "batching": model.batching.model_copy(update=batching),
            "autoscaling": model.autoscaling.model_copy(
                update={"min_replicas": one.replicas, "max_replicas": max(most, one.replicas)}
            ),
            "placement": model.placement.model_copy(
                update={"pool": node, "num_cpus": one.num_cpus, "preprocess_workers": one.workers}
            ),
        }
    )


def _stores(base: ClusterFile, candidate: Candidate) -> dict[str, Any]:
    """The stores, each on the pool with most cores left."""
    spare = {pool.node: pool.spare_cpus for pool in candidate.pools}
    moved: dict[str, Any] = {}
    for name, model in kept_stores(base).items():
        pool = max(spare, key=lambda name: spare[name])
        spare[pool] -= model.placement.num_cpus
        moved[name] = model.model_copy(update={"placement": model.placement.model_copy(update={"pool": pool})})
    return moved


def _node_pool(problem: Problem, pool: Pool, most: Mapping[str, int]) -> NodePool:
    kind = problem.catalogue.nodes[pool.node]
    growth = max((most.get(one.option.stage, one.replicas) / one.replicas for one in pool.placed), default=1.0)
    return NodePool(
        gpu=kind.gpu,
        gpus=kind.gpus,
        gpu_memory_gb=kind.gpu_memory_gb,
        cpus=kind.cpus,
        memory_gb=kind.memory_gb,
        min_nodes=pool.nodes,
        max_nodes=max(pool.nodes, math.ceil(pool.nodes * growth)),
    )


def _stood_in(cascade: Cascade, called: Called) -> Cascade:
    """The cascade with a provider asked in a model's place, and no fallback to either."""

    def changed(step: CascadeStep) -> CascadeStep:
        if step.use != called.stage:
            return step
        rest = tuple(one for one in step.fallback if one.use != called.provider)
        return step.model_copy(update={"use": called.provider, "fallback": rest})

    return cascade.model_copy(update={"steps": tuple(changed(step) for step in cascade.steps)})


def _home(problem: Problem, node: str) -> HardwareProfile:
    """Profile that the routers run under: the node's own, or any for nodes that host no model."""
    hardware = problem.catalogue.nodes[node].hardware
    if hardware is not None and hardware in problem.profiles:
        return problem.profiles[hardware]
    return next(iter(problem.profiles.values()))


def scenario_of(problem: Problem, candidate: Candidate, *, lost: Mapping[str, int] | None = None) -> Scenario | None:
    """What the flows meet on it; None when a stage has no replica left.

    Args:
        lost: replicas that are gone, by stage.
    """
    cluster = cluster_of(problem, candidate)
    profiles = {pool.node: _home(problem, pool.node) for pool in candidate.pools}
    made = scenario(cluster, profiles, problem.flows)
    stages = {}
    for name, stage in made.stages.items():
        left = stage.replicas - (lost or {}).get(name, 0)
        if left < 1:
            return None
        stages[name] = replace(stage, replicas=left, slowdown=candidate.placed[name][1].slowdown)
    providers = {name: problem.provider(name) or profile for name, profile in made.providers.items()}
    return replace(made, stages=stages, providers=providers)


def node_usd_per_hour(problem: Problem, nodes: Mapping[str, int]) -> float:
    """What the nodes cost, spare ones for their availability included."""
    prices = problem.catalogue.priced(problem.wishes.price)
    return sum(rented(problem, node, count) * prices[node].usd_per_hour for node, count in nodes.items())


def rented(problem: Problem, node: str, working: int) -> int:
    """Nodes to rent so that `working` are up as often as is wished."""
    if problem.wishes.availability is None:
        return working
    price = problem.catalogue.priced(problem.wishes.price)[node]
    return bought(working, price.availability, problem.wishes.availability)
