"""`serveConfigV2`: Ray Serve's own configuration, with every deployment's share and bounds from the cluster file."""

from __future__ import annotations

from typing import Any

import yaml

from serve import preference
from serve.config.cluster import ClusterFile
from serve.kubernetes import cluster_file
from serve.kubernetes.settings import KEYS, POOL_LABEL, Settings
from serve.placement import ROUTER, actor_options, policy_options, replica_options
from serve.rollout import surge_percent

# As `serve.runtime.local` and `serve.protocol.grpc_server` have them; those import Ray and gRPC.
APPLICATION = "argus"
SERVICER_FUNCTIONS = ("serve.protocol.grpc_server.add_inference", "serve.protocol.grpc_server.add_health")


def text(settings: Settings) -> str:
    """As YAML, which the RayService holds as one string."""
    return yaml.safe_dump(config(settings), sort_keys=False, width=110)


def config(settings: Settings) -> dict[str, Any]:
    """The configuration (`ray.serve.schema.ServeDeploySchema`)."""
    cluster = settings.cluster
    arguments: dict[str, Any] = {
        "cluster_file": str(cluster_file.PATH),
        # Another file is another digest, so Ray Serve updates the application in place, deployment by deployment.
        "sha256": cluster_file.digest(cluster),
    }
    if settings.local:
        arguments["insecure"] = True
    else:
        arguments |= {"keys_file": str(KEYS), "keys_revision": settings.keys_revision}
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": cluster.server.http_port},
        "grpc_options": {"port": cluster.server.grpc_port, "grpc_servicer_functions": list(SERVICER_FUNCTIONS)},
        "logging_config": _logging(cluster),
        "applications": [
            {
                "name": APPLICATION,
                "route_prefix": "/",
                "import_path": "serve.app:from_file",
                "args": arguments,
                "logging_config": _logging(cluster),
                **policy_options(cluster),
                "deployments": [_router(settings), *(_model(settings, name) for name in cluster.models)],
            }
        ],
    }


def _logging(cluster: ClusterFile) -> dict[str, Any]:
    """As `serve.app.logging_config`."""
    level = "WARNING" if cluster.log_level == "INFO" else cluster.log_level
    return {"encoding": "JSON", "log_level": level, "enable_access_log": False}


def _router(settings: Settings) -> dict[str, Any]:
    return {
        "name": ROUTER,
        **replica_options(settings.cluster, ROUTER),
        "max_surge_percent": surge_percent(None),
        "graceful_shutdown_timeout_s": settings.drain_s,
        "ray_actor_options": actor_options(settings.cluster, ROUTER),
    }


def _model(settings: Settings, name: str) -> dict[str, Any]:
    """Ray Serve puts these options in the place of the code's whole `ray_actor_options`, so they are complete."""
    model, options = settings.cluster.models[name], actor_options(settings.cluster, name)
    if len(settings.cluster.node_pools) > 1:
        # What needs no GPU would otherwise land on any node, and keep one of another pool from going away.
        options |= preference.by_pool(settings.cluster, name, POOL_LABEL)
    return {
        "name": name,
        **replica_options(settings.cluster, name),
        "max_surge_percent": surge_percent(model),
        "graceful_shutdown_timeout_s": settings.drain_s,
        "ray_actor_options": options,
    }
