"""The nodes of a cluster file as Ray sees them on Kubernetes: read from the RayService that is rendered for it.

GPUs are numbers that Ray counts, so a machine without one has as many nodes with T4s and A100s as one likes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from serve.config.cluster import ClusterFile
from serve.kubernetes import cluster_file, serve_config
from serve.kubernetes.ray_service import ray_service
from serve.kubernetes.settings import POOL_LABEL, Settings
from serve.preference import ACCELERATOR_LABEL

OBJECT_STORE_BYTES: Final = 80 * 1024 * 1024
HEAD: Final = "ray.head.default"
"""What Ray's provider of nodes on one machine calls the head's type."""

_IMAGE: Final = "registry.example.com/argus:0"
_PROVIDER: Final = "benchmarks.scaling.provider.BootingNodes"


@dataclass(frozen=True, slots=True)
class Shape:
    """A kind of node.

    Attributes:
        resources: beside cores and GPUs.
    """

    cpus: int
    gpus: int
    resources: Mapping[str, int]
    labels: Mapping[str, str]


def settings(cluster: ClusterFile) -> Settings:
    """How the cluster file is rendered for Kubernetes: without keys, since nothing listens beyond this machine."""
    return Settings(cluster, "here", _IMAGE, _IMAGE, local=True)


def shapes(cluster: ClusterFile) -> dict[str, Shape]:
    """One for each node pool."""
    found = {}
    for name, kind in _node_types(cluster).items():
        resources = dict(kind["resources"])
        found[name] = Shape(resources.pop("CPU"), resources.pop("GPU", 0), resources, kind["labels"])
    del found[HEAD]
    return found


def autoscaling(cluster: ClusterFile, gcs_address: str, head_node_id: str, boot_s: float) -> dict[str, Any]:
    """The configuration of Ray's autoscaler, as it makes it out of a RayCluster; only who starts nodes is another.

    Args:
        gcs_address: `host:port` of the cluster.
        head_node_id: of its head.
        boot_s: how long a machine takes to come up before Ray starts on it, in seconds.
    """
    config = _derived(cluster)
    kinds = _node_types(cluster)
    for kind in kinds.values():
        kind["resources"]["object_store_memory"] = OBJECT_STORE_BYTES
    return config | {
        "available_node_types": kinds,
        "head_node_type": HEAD,
        "provider": {
            # Ray's own name for it, `fake_multinode`, wants a file that its wheel does not have (2.60).
            "type": "external",
            "module": _PROVIDER,
            "gcs_address": gcs_address,
            "head_node_id": head_node_id,
            "launch_multiple": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "boot_s": boot_s,
        },
    }


def serve_schema(cluster: ClusterFile, folder: Path) -> dict[str, Any]:
    """`serveConfigV2` as pods get it, with the cluster file in `folder`, and HTTP and gRPC on one node only.

    All nodes are this machine, and each would listen at the same ports.
    """
    chosen = settings(cluster)
    path = folder / cluster_file.FILE
    path.write_text(cluster_file.text(cluster), encoding="utf-8")
    config = serve_config.config(chosen)
    (application,) = config["applications"]
    application["args"] |= {"cluster_file": str(path), "wait_s": 0}
    host = {"host": cluster.server.host}
    return config | {"proxy_location": "HeadOnly", "http_options": config["http_options"] | host}


def _derived(cluster: ClusterFile) -> dict[str, Any]:
    # Ray's own translation, which its autoscaler makes in the head's pod (2.60; private there too).
    from ray.autoscaler._private.kuberay import autoscaling_config

    rendered = ray_service(settings(cluster))
    resource = {
        "metadata": {"name": rendered["metadata"]["name"], "namespace": "argus"},
        "spec": rendered["spec"]["rayClusterConfig"],
    }
    config: dict[str, Any] = autoscaling_config._derive_autoscaling_config_from_ray_cr(resource)
    return config


def _node_types(cluster: ClusterFile) -> dict[str, Any]:
    """By pool, and of the head. Ray finds out a GPU's kind on its node; here nothing is to be found, so it is said."""
    config = _derived(cluster)
    kinds: dict[str, Any] = config["available_node_types"]
    kinds[HEAD] = kinds.pop(config["head_node_type"])
    for name, kind in kinds.items():
        kind["resources"].pop("memory", None)
        pool = cluster.node_pools.get(name)
        labels = {} if pool is None or pool.gpu is None else {ACCELERATOR_LABEL: pool.gpu}
        kind["labels"] = kind["labels"] | labels
        assert pool is None or kind["labels"][POOL_LABEL] == name
    return kinds
