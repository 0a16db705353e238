"""What a deployment asks of Ray: cores, a share of a GPU, and how many replicas.

Plain values, for Ray Serve's Python API and for its configuration files alike.
"""

from __future__ import annotations

from typing import Any

from serve import preference
from serve.autoscaling.plan import DEPLOYMENT_POLICY, POLICY, in_use, plan
from serve.config.cluster import ClusterFile
from serve.config.placement_checks import gpu_share

ROUTER = "router"
# How often a router tells the autoscaler what came, in seconds, and for how long Ray keeps it. The setting is the only
# one that Ray 2.60 obeys, although it calls it deprecated; the environment's variables are not read anywhere.
_TOLD_S, _KEPT_S = 2.0, 10.0


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


def controller_environment(cluster: ClusterFile) -> dict[str, str]:
    """Variables of Ray Serve's controller: how it chooses nodes."""
    if not cluster.pack_nodes:
        return {}
    return {
        "RAY_SERVE_USE_PACK_SCHEDULING_STRATEGY": "1",
        # It would move replicas that run to empty a node, also one that a pool keeps in any case.
        "RAY_SERVE_NODE_COMPACTION_DELAY_S": "1e9",
    }


def replica_options(cluster: ClusterFile, name: str) -> dict[str, Any]:
    """`num_replicas` of a deployment whose number is fixed, else `autoscaling_config`.

    Under a policy of ours Ray applies no delays of its own, since the policy has; and the router has the configuration
    of one that scales, with equal bounds: only of such deployments Ray tells a policy anything.
    """
    ours = in_use(cluster)
    if name == ROUTER:
        count = cluster.router.replicas
        if not ours:
            return {"num_replicas": count}
        return {
            "autoscaling_config": {
                "min_replicas": count,
                "max_replicas": count,
                "target_ongoing_requests": float(cluster.router.max_ongoing_requests),
                "metrics_interval_s": _TOLD_S,
                "look_back_period_s": _KEPT_S,
            }
        }
    scaling = cluster.models[name].autoscaling
    if scaling.fixed:
        return {"num_replicas": scaling.min_replicas}
    delays = (0.0, 0.0) if ours else (scaling.upscale_delay_s, scaling.downscale_delay_s)
    return {
        "autoscaling_config": {
            "min_replicas": scaling.min_replicas,
            "max_replicas": scaling.max_replicas,
            "target_ongoing_requests": scaling.target_ongoing_requests,
            "upscale_delay_s": delays[0],
            "downscale_delay_s": delays[1],
        }
    }


def policy_options(cluster: ClusterFile) -> dict[str, Any]:
    """`autoscaling_policy` of the application (ray.serve.schema.ServeApplicationSchema); empty for Ray Serve's own."""
    return {"autoscaling_policy": _policy(cluster, POLICY)} if in_use(cluster) else {}


def deployment_policy_options(cluster: ClusterFile) -> dict[str, Any]:
    """`policy` of each deployment that scales (ray.serve.config.AutoscalingConfig); empty for Ray Serve's own."""
    return {"policy": _policy(cluster, DEPLOYMENT_POLICY)} if in_use(cluster) else {}


def _policy(cluster: ClusterFile, path: str) -> dict[str, Any]:
    return {"policy_function": path, "policy_kwargs": plan(cluster).arguments() | {"router": ROUTER}}
