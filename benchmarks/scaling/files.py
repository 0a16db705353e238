"""Cluster files of two kinds of GPU nodes, with models that only take their places."""

from __future__ import annotations

from typing import Any

LIMITS = {"default_timeout_s": 10, "max_timeout_s": 10}


def pools(t4_nodes: int = 2, a100_nodes: int = 1, **keys: Any) -> dict[str, Any]:
    """So many T4 nodes with one GPU, and A100 nodes with two."""
    small = {"gpu": "T4", "gpus": 1, "gpu_memory_gb": 16, "cpus": 4, "memory_gb": 8}
    large = {"gpu": "A100", "gpus": 2, "gpu_memory_gb": 40, "cpus": 4, "memory_gb": 8}
    bounds = {"t4": t4_nodes, "a100": a100_nodes}
    return {
        name: pool | {"min_nodes": bounds[name], "max_nodes": max(1, bounds[name])} | keys.get(name, {})
        for name, pool in (("t4", small), ("a100", large))
    }


def model(gb: float, *on: str, replicas: int = 1, kind: str = "Placed", **keys: Any) -> dict[str, Any]:
    """A model on the first of these pools, or else on the others."""
    return {
        "kind": "custom",
        "implementation": f"benchmarks.scaling.models:{kind}",
        "tasks": ["classify"],
        "gpu_memory_gb": gb,
        "autoscaling": {"min_replicas": replicas, "max_replicas": replicas},
        "placement": {"pool": on[0], "fallback_pools": list(on[1:]), "num_cpus": 0.1},
        **keys,
    }


def file(models: dict[str, Any], node_pools: dict[str, Any] | None = None, **sections: Any) -> dict[str, Any]:
    """The content of a cluster file, without `server`."""
    return {
        "name": "nodes",
        "node_pools": node_pools or pools(),
        "models": models,
        "router": {"num_cpus": 0.1},
        "limits": LIMITS,
        "resilience": {"cache": {"enabled": False}},
        **sections,
    }
