"""What a deployment asks of Ray: cores, a share of a GPU, and how many replicas.

Plain values, for Ray Serve's Python API and for its configuration files alike.
"""

from __future__ import annotations

from typing import Any

from serve import preference
from serve.config.cluster import ClusterFile
from serve.config.models import Model
from serve.config.placement_checks import gpu_share

ROUTER = "router"


def actor_options(cluster: ClusterFile, name: str) -> dict[str, Any]:
    """`ray_actor_options` of a model's deployment, or of the router's."""
    if name == ROUTER:
        return {"num_cpus": cluster.router.num_cpus}
    model = cluster.models[name]
    threads = str(model.placement.threads)
    options: dict[str, Any] = {
        "num_cpus": model.placement.num_cpus,
        # Read by OpenMP and MKL when they load, so it must be there before the replica imports torch.
        "runtime_env": {"env_vars": {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}},
    }
    if model.gpu_memory_gb:
        options["num_gpus"] = gpu_share(cluster, name)
        if model.placement.fallback_pools:
            options |= preference.by_card(cluster, name)
        else:
            options["accelerator_type"] = cluster.node_pools[cluster.pool_of(name)].gpu
    return options


def replica_options(model: Model) -> dict[str, Any]:
    """`num_replicas` of a model whose number is fixed, else `autoscaling_config`."""
    scaling = model.autoscaling
    if scaling.min_replicas == scaling.max_replicas:
        return {"num_replicas": scaling.min_replicas}
    return {"autoscaling_config": scaling.model_dump()}
