"""One answer to a problem: nodes, what runs on them, what others host, and the cluster file that says so."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
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
from serve.config.kubernetes import PoolOnKubernetes
from serve.config.model_base import Placement, StoreModel
from serve.config.objectives import Objectives

# A router's process does requests one after the other: above this use of its core they wait for each other. In the
# busiest second of a burst they may, as long as they are not turned away.
_ROUTER_USE, _ROUTER_USE_AT_PEAK = 0.6, 0.9
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


@dataclass(frozen=True, slots=True)
class Loss:
    """One node that is gone.

    Attributes:
        node: its kind.
        at: which of its pool's.
        content: replicas that are gone with it, by stage.
    """

    node: str
    at: int
    content: Mapping[str, int]

    @property
    def label(self) -> str:
        """`one t4 node (1 clip)`"""
        what = ", ".join(f"{count} {stage}" for stage, count in sorted(self.content.items()))
        return f"one {self.node} node ({what or 'no model'})"


def losses(candidate: Candidate) -> Iterator[Loss]:
    """Each node, but once for those of one kind with the same replicas and as many cores left."""
    for pool in candidate.pools:
        seen = []
        for at, (content, spare) in enumerate(zip(pool.contents, pool.spare, strict=True)):
            if (content, spare) not in seen:
                seen.append((content, spare))
                yield Loss(pool.node, at, content)


def assemble(
    problem: Problem, pools: tuple[Pool, ...], called: tuple[Called, ...], within: Mapping[str, float]
) -> Candidate | None:
    """The candidate, with routers for the load; None where the nodes lack cores for those and the stores.

    Args:
        within: seconds that a call of a stage may take by its objectives.
    """
    home = _home(problem, pools[0].node)
    routers = max(problem.cluster.router.replicas if home.cores == 0 else 1, _routers(problem, home))
    if routers > 64 or _stores_at(problem.cluster, _spare(pools), routers) is None:
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


def _routers(problem: Problem, home: HardwareProfile) -> int:
    """As many as the mean rate takes, and the busiest second: a plan that has models for a burst must let it in."""
    each_s = home.router.cpu.mean + home.router.ingress_cpu_s
    peak_per_s = problem.arrivals.long_peak(problem.seconds)
    return math.ceil(each_s * max(problem.rate_per_s / _ROUTER_USE, peak_per_s / _ROUTER_USE_AT_PEAK))


def kept_stores(cluster: ClusterFile) -> dict[str, Any]:
    """Stores of the base file: they cost cores, no GPU, and routes rest on them."""
    return {name: model for name, model in cluster.models.items() if isinstance(model, StoreModel)}


def _spare(pools: Sequence[Pool], lost: Loss | None = None) -> list[tuple[str, float]]:
    """Kind and cores left of each node that is there."""
    return [
        (pool.node, cores)
        for pool in pools
        for at, cores in enumerate(pool.spare)
        if lost is None or (pool.node, at) != (lost.node, lost.at)
    ]


def _stores_at(cluster: ClusterFile, spare: Sequence[tuple[str, float]], routers: int) -> dict[str, str] | None:
    """Kind of node for each store, with routers and stores in whole on nodes, the largest first, each where least is
    left over; None where one has no room.

    Args:
        spare: kind and cores left of each node.
    """
    asked: list[tuple[float, str | None]] = [(cluster.router.num_cpus, None)] * routers
    asked += [(model.placement.num_cpus, name) for name, model in kept_stores(cluster).items()]
    left = [cores for _, cores in spare]
    found: dict[str, str] = {}
    for cores, store in sorted(asked, key=lambda one: -one[0]):
        fitting = [at for at, room in enumerate(left) if room >= cores - 1e-9]
        if not fitting:
            return None
        at = min(fitting, key=lambda at: left[at])
        left[at] -= cores
        if store is not None:
            found[store] = spare[at][0]
    return found


def cluster_of(problem: Problem, candidate: Candidate, *, most: Mapping[str, int] | None = None) -> ClusterFile:
    """The cluster file: the base with pools, replicas, budgets and batch limits of the candidate, and without what no
    flow asks.

    Args:
        most: replicas up to which a stage may grow, by stage; by default as many as are planned.
    """
    base, most = problem.cluster, most or {}
    models: dict[str, Any] = {
        stage: _model(problem, stage, node, one, candidate.queues.get(stage), most.get(stage, one.replicas))
        for stage, (node, one) in candidate.placed.items()
    }
    models |= _stores(base, candidate)
    node_pools = {pool.node: _node_pool(problem, pool, most) for pool in candidate.pools}
    models = {name: _on(model, node_pools) for name, model in models.items()}
    cascades = {flow.entry: base.cascades[flow.entry] for flow in problem.flows if flow.entry in base.cascades}
    for one in candidate.called:
        cascades = {name: _stood_in(cascade, one) for name, cascade in cascades.items()}
    targets = base.resilience.targets
    kept = {name: target for name, target in targets.items() if name in models or name in base.providers}
    return base.model_copy(
        update={
            "node_pools": node_pools,
            "models": models,
            "cascades": cascades,
            "resilience": base.resilience if kept == targets else base.resilience.model_copy(update={"targets": kept}),
            "objectives": _objectives(base, cascades),
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
    """The stores, each on a pool that has room for it."""
    pools = _stores_at(base, _spare(candidate.pools), candidate.routers) or {}
    return {
        name: model.model_copy(update={"placement": model.placement.model_copy(update={"pool": pools[name]})})
        for name, model in kept_stores(base).items()
    }


def _on(model: Any, pools: Mapping[str, NodePool]) -> Any:
    """The model with those of its fallback pools that are there and whose GPUs are as large as the preferred one's: the
    share of a smaller one would be larger than planned, on every pool."""
    placement: Placement = model.placement
    if not placement.fallback_pools or placement.pool is None:
        return model
    preferred = pools[placement.pool]

    def fits(name: str) -> bool:
        pool = pools.get(name)
        if pool is None or name == placement.pool:
            return False
        # One GPU is preferred to another by their names.
        named = pool.gpu is not None and preferred.gpu is not None
        return not model.gpu_memory_gb or (named and pool.gpu_memory_gb >= preferred.gpu_memory_gb)

    kept = tuple(name for name in placement.fallback_pools if fits(name))
    return model.model_copy(update={"placement": placement.model_copy(update={"fallback_pools": kept})})


def _objectives(base: ClusterFile, cascades: Mapping[str, Cascade]) -> Objectives:
    """Without those of cascades that are not there any more."""
    slos = base.objectives.slos
    kept = {name: one for name, one in slos.items() if one.cascade is None or one.cascade in cascades}
    return base.objectives if kept == slos else base.objectives.model_copy(update={"slos": kept})


def _node_pool(problem: Problem, pool: Pool, most: Mapping[str, int]) -> NodePool:
    """Its nodes on Kubernetes are the base file's, where that has a pool of the name."""
    named = problem.cluster.node_pools.get(pool.node)
    kind = problem.catalogue.nodes[pool.node]
    growth = max((most.get(one.option.stage, one.replicas) / one.replicas for one in pool.placed), default=1.0)
    least = rented(problem, pool.node, pool.nodes)
    return NodePool(
        gpu=kind.gpu,
        gpus=kind.gpus,
        gpu_memory_gb=kind.gpu_memory_gb,
        cpus=kind.cpus,
        memory_gb=kind.memory_gb,
        min_nodes=least,
        max_nodes=max(least, min(kind.max_nodes, math.ceil(least * growth))),
        kubernetes=PoolOnKubernetes() if named is None else named.kubernetes,
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


def scenario_of(problem: Problem, candidate: Candidate, *, lost: Loss | None = None) -> Scenario | None:
    """What the flows meet on it; None when a stage has no replica left, or the routers and stores no room.

    Args:
        lost: a node that is gone. Its routers and stores start anew on others, which must have room for all of them;
            until then the routers are fewer by the node's share.
    """
    nodes = sum(candidate.nodes.values())
    routers = candidate.routers
    if lost is not None:
        if nodes == 1 or _stores_at(problem.cluster, _spare(candidate.pools, lost), routers) is None:
            return None
        routers = max(1, routers - math.ceil(routers / nodes))
    cluster = cluster_of(problem, candidate)
    profiles = {pool.node: _home(problem, pool.node) for pool in candidate.pools}
    made = scenario(cluster, profiles, problem.flows)
    stages = {}
    for name, stage in made.stages.items():
        left = stage.replicas - (0 if lost is None else lost.content.get(name, 0))
        if left < 1:
            return None
        stages[name] = replace(stage, replicas=left, slowdown=candidate.placed[name][1].slowdown)
    providers = {name: problem.provider(name) or profile for name, profile in made.providers.items()}
    return replace(made, stages=stages, providers=providers, router_replicas=routers)


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
