"""Which nodes of a Kubernetes cluster are those of a pool."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serve.config.cluster import NodePool
from serve.errors import ConfigError

PRODUCT = "nvidia.com/gpu.product"

# Ray's accelerator name and the memory of one GPU (at least so many GB) -> the product's name as NVIDIA's GPU Feature
# Discovery labels nodes with it: https://github.com/NVIDIA/k8s-device-plugin/tree/main/docs/gpu-feature-discovery
_PRODUCTS: Mapping[str, tuple[tuple[float, str], ...]] = {
    "T4": ((0, "Tesla-T4"),),
    "L4": ((0, "NVIDIA-L4"),),
    "A10G": ((0, "NVIDIA-A10G"),),
    "A100": ((60, "NVIDIA-A100-SXM4-80GB"), (0, "NVIDIA-A100-SXM4-40GB")),
    "H100": ((0, "NVIDIA-H100-80GB-HBM3"),),
}


def node_selector(pool: NodePool, key: str) -> dict[str, str]:
    """Labels that the pool's nodes have; empty for a pool that may be anywhere.

    Args:
        key: of the pool, for errors.

    Raises:
        ConfigError: the GPU is one whose label is not known, and the file does not name it.
    """
    stated = pool.kubernetes.node_selector
    if stated is not None:
        return dict(stated)
    if not pool.gpus:
        return {}
    for least_gb, product in _PRODUCTS.get(pool.gpu or "", ()):
        if pool.gpu_memory_gb >= least_gb:
            return {PRODUCT: product}
    raise ConfigError(
        f"{key}.kubernetes.node_selector: is missing; the label of nodes with a {pool.gpu or 'GPU'} is not known, only "
        f"those of {', '.join(_PRODUCTS)}"
    )


def tolerations(pool: NodePool) -> list[dict[str, Any]]:
    """Taints that pods of the pool put up with."""
    stated = pool.kubernetes.tolerations
    if stated is not None:
        return [one.model_dump(exclude_none=True) for one in stated]
    return [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}] if pool.gpus else []
