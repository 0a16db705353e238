"""Replicas that share an accelerator: how much longer each one's passes take for what runs beside it.

A GPU that several processes use gives each its turn. So a pass takes longer by the share of the time that the others
are busy; and never longer than as if all of them always were, when it has one turn of so many.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from benchmarks.capacity.planner.demand import works
from benchmarks.capacity.planner.options import figures
from benchmarks.capacity.scenario import Flow, Scenario, Stage
from benchmarks.traffic.traces import Int32
from deployments.gpu import Claim, spread
from serve.config.cluster import ClusterFile

# Use of a replica that an autoscaler keeps, about.
_USE_SCALED = 0.7


def slowdown(others: Sequence[float]) -> float:
    """Factor on a replica's passes.

    Args:
        others: what each replica beside it asks of the accelerator's time, from 0 to 1.
    """
    busy = [one for one in others if one > 0]
    free = 1.0 - sum(busy)
    most = 1.0 + len(busy)
    return min(most, 1.0 / free) if free > 0 else most


def shared(
    made: Scenario, cluster: ClusterFile, rate_per_s: float, tokens: tuple[Int32, Int32] | None = None
) -> Scenario:
    """A scenario whose stages slow each other down where the cluster file lets their replicas share a GPU.

    Replicas lie as Ray spreads them over the pools' fewest nodes; where they find no room there, over the most. A stage
    that scales has as many as the mean rate takes.

    Args:
        rate_per_s: mean rate of all requests.
        tokens: of each request's prompt and output where a recording says them; 0 where the flow does.
    """
    asked = works(cluster, made.flows if tokens is None else tuple(_told(flow, *tokens) for flow in made.flows))
    # What only fallbacks come to is asked of nothing while nothing fails.
    busy = {
        name: rate_per_s * asked[name].calls / figures(asked[name], stage.profile, stage.limits.max_items)[0]
        if name in asked
        else 0.0
        for name, stage in made.stages.items()
    }
    replicas = {name: _replicas(stage, busy[name]) for name, stage in made.stages.items()}
    loads = {name: min(1.0, busy[name] / count) for name, count in replicas.items()}
    factors: dict[str, list[float]] = {}
    for pool in {stage.pool for stage in made.stages.values()}:
        mine = {name: replicas[name] for name, stage in made.stages.items() if stage.pool == pool}
        for models in _gpus(cluster, pool, mine):
            for at, name in enumerate(models):
                beside = [loads[other] for place, other in enumerate(models) if place != at]
                factors.setdefault(name, []).append(slowdown(beside))
    stages = {
        name: replace(stage, slowdown=sum(factors[name]) / len(factors[name])) if name in factors else stage
        for name, stage in made.stages.items()
    }
    return replace(made, stages=stages)


def _told(flow: Flow, prompts: Int32, outputs: Int32) -> Flow:
    """The flow with what requests have on average."""
    prompt = np.where(prompts == 0, flow.prompt_tokens, prompts)
    output = np.where(outputs == 0, flow.output_tokens, outputs)
    means = {"prompt_tokens": round(float(prompt.mean())), "output_tokens": round(float(output.mean()))}
    return flow.model_copy(update=means) if len(prompts) else flow


def _replicas(stage: Stage, busy: float) -> int:
    """How many there are, on average, for so many seconds of full batches a second."""
    if stage.scaling is None:
        return stage.replicas
    wanted = math.ceil(busy / _USE_SCALED)
    return max(1, stage.scaling.min_replicas, min(wanted, stage.scaling.max_replicas))


def _gpus(cluster: ClusterFile, pool: str, replicas: Mapping[str, int]) -> Sequence[Sequence[str]]:
    """The replicas on each GPU of a pool."""
    section = cluster.node_pools[pool]
    if not section.gpus:
        return ()
    claims = [
        Claim(name, budget, count)
        for name, count in replicas.items()
        if 0 < (budget := cluster.models[name].gpu_memory_gb) <= section.gpu_memory_gb
    ]
    for nodes in (max(1, section.min_nodes), section.max_nodes):
        packing = spread(claims, section.gpus, section.gpu_memory_gb, nodes=nodes)
        if not packing.homeless:
            break
    return packing.models
