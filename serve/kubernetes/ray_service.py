"""The RayService: one Ray cluster with a worker group for each node pool, and Argus on it.

Fields and traps: KubeRay 1.7, ray-operator/apis/ray/v1 and helm-chart/kuberay-operator/crds/ray.io_rayservices.yaml.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from serve.kubernetes import pods, serve_config
from serve.kubernetes.redis import ADDRESS
from serve.kubernetes.settings import NAME, POOL_LABEL, REDIS_SECRET, Object, Settings, labels, made

# Of an incremental upgrade: this share of capacity beside the old cluster, this share of traffic a step, this often.
_SURGE_PERCENT, _STEP_PERCENT, _INTERVAL_S = 50, 10, 60


def ray_service(settings: Settings) -> Object:
    """The RayService.

    `serveConfigV2` changes are rolled out in place; a change of a pod's template (image, variables) makes a second Ray
    cluster, and traffic moves when all of Argus runs on it.
    """
    spec: dict[str, Any] = {
        "serveConfigV2": serve_config.text(settings),
        "upgradeStrategy": _upgrade(settings),
        # The old cluster's pods begin to end so long after traffic has moved; their grace period comes on top.
        "rayClusterDeletionDelaySeconds": 60,
        "excludeHeadPodFromServeSvc": True,
        "serveService": _service(settings),
        "rayClusterConfig": _cluster(settings),
    }
    return made("RayService", NAME, "service", spec, api="ray.io/v1")


def _upgrade(settings: Settings) -> dict[str, Any]:
    if settings.upgrade == "new-cluster":
        return {"type": "NewCluster"}
    return {
        "type": "NewClusterWithIncrementalUpgrade",
        "clusterUpgradeOptions": {
            "maxSurgePercent": _SURGE_PERCENT,
            "stepSizePercent": _STEP_PERCENT,
            "intervalSeconds": _INTERVAL_S,
            "gatewayClassName": settings.gateway_class,
        },
    }


def _service(settings: Settings) -> dict[str, Any]:
    """The operator points it at the Ray cluster that serves."""
    server = settings.cluster.server
    return {
        "metadata": {"name": NAME, "labels": labels("service")},
        "spec": {
            "type": "ClusterIP",
            "ports": [
                {"name": "serve", "port": server.http_port, "targetPort": "serve", "appProtocol": "http"},
                # HTTP/2 without TLS, so that a Gateway does not speak HTTP/1.1 to it.
                {
                    "name": "serve-grpc",
                    "port": server.grpc_port,
                    "targetPort": "serve-grpc",
                    "appProtocol": "kubernetes.io/h2c",
                },
            ],
        },
    }


def _cluster(settings: Settings) -> dict[str, Any]:
    return {
        "rayVersion": version("ray"),
        # Ray's own ports (GCS, dashboard, agents) then ask for a token, which the operator makes.
        "authOptions": {"mode": "token"},
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {
            "version": "v2",
            "idleTimeoutSeconds": 600,
            "upscalingMode": "Default",
            "resources": {
                "requests": {"cpu": "250m", "memory": "1000M"},
                "limits": {"cpu": "1", "memory": "1000M"},
            },
            "securityContext": pods.container_security(),
            "volumeMounts": pods.scratch_mounts(),
        },
        # The head may then die and come back without the workers noticing; without it, it takes the service along.
        "gcsFaultToleranceOptions": {
            "redisAddress": settings.redis or ADDRESS,
            "redisPassword": {"valueFrom": {"secretKeyRef": {"name": REDIS_SECRET, "key": "password"}}},
        },
        # Nothing is placed on a node without cores, so no replica dies with the head.
        "headGroupSpec": {"rayStartParams": {"num-cpus": "0"}, "template": pods.head(settings)},
        "workerGroupSpecs": [_workers(settings, name) for name in settings.cluster.node_pools],
    }


def _workers(settings: Settings, name: str) -> dict[str, Any]:
    pool = settings.cluster.node_pools[name]
    # What the autoscaler believes of a node that is not there yet. Of GPUs it must know the type: replicas ask for it.
    resources = {"CPU": str(pool.cpus)}
    if pool.gpus:
        resources["GPU"] = str(pool.gpus)
        if pool.gpu is not None:
            resources[f"accelerator_type:{pool.gpu}"] = "1"
    return {
        "groupName": name,
        "replicas": pool.min_nodes,
        "minReplicas": pool.min_nodes,
        "maxReplicas": pool.max_nodes,
        "idleTimeoutSeconds": pool.kubernetes.idle_timeout_s,
        "priority": pool.kubernetes.priority,
        "labels": {POOL_LABEL: name},
        "resources": resources,
        "rayStartParams": {"object-store-memory": str(pods.object_store_bytes(pool))},
        "template": pods.worker(settings, name),
    }
