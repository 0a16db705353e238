"""Pods of Ray: the head, which does no work, and one kind of worker for each node pool."""

from __future__ import annotations

from typing import Any

from serve.config.cluster import ClusterFile, NodePool
from serve.kubernetes import cluster_file, environment, weights
from serve.kubernetes.nodes import node_selector, tolerations
from serve.kubernetes.settings import (
    AGENT_PORT,
    AUTOSCALER_METRICS_PORT,
    CONFIG,
    DASHBOARD_METRICS_PORT,
    DASHBOARD_PORT,
    GCS_PORT,
    INGRESS,
    INGRESS_METRICS_PORT,
    KEYS,
    KEYS_SECRET,
    METRICS_PORT,
    NAME,
    POOL_LABEL,
    PROVIDER_FILES,
    PROVIDERS_SECRET,
    STATE,
    STATS_PORT,
    USER,
    WEIGHTS,
    Object,
    Settings,
    labels,
    megabytes,
    millicores,
    pod_memory_gb,
)

HEAD_CPUS, HEAD_MEMORY_GB = 2, 8
ARGUS = "/argus/.venv/bin/argus"

# Ray's store of objects, as a share of a pod's memory: our messages go from process to process without it. Shared
# memory has room for it and for what engines pass between their processes.
_OBJECT_STORE_SHARE, _SHARED_MEMORY_SHARE = 0.1, 0.2


def pod_security() -> dict[str, Any]:
    """Of every pod: the user of our images, and files that belong to it."""
    return {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security() -> dict[str, Any]:
    """Of every container. Ray writes below /tmp and to shared memory only, so the root file system is read-only."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
    }


def head(settings: Settings) -> Object:
    """The pod of GCS, Serve's controller, dashboard and autoscaler."""
    resources = {"cpu": str(HEAD_CPUS), "memory": megabytes(HEAD_MEMORY_GB)}
    container = {
        **_ray(settings, "ray-head"),
        "resources": {"requests": resources, "limits": {"memory": resources["memory"]}},
        "ports": [
            _port("gcs-server", GCS_PORT),
            _port("dashboard", DASHBOARD_PORT),
            *_serving_ports(settings),
            # The operator adds neither to what Prometheus can find.
            _port("as-metrics", AUTOSCALER_METRICS_PORT),
            _port("dash-metrics", DASHBOARD_METRICS_PORT),
        ],
        "readinessProbe": _probe("/api/gcs_healthz", "dashboard", period_s=5, failures=3),
    }
    return {
        "metadata": {
            "labels": labels("head"),
            # A node that is emptied to save money shall not take the head with it.
            "annotations": {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"},
        },
        "spec": {
            **_pod(settings, shared_memory_gb=HEAD_MEMORY_GB * _SHARED_MEMORY_SHARE),
            "priorityClassName": f"{NAME}-head",
            "terminationGracePeriodSeconds": 60,
            "initContainers": [prepare(settings, wait_for_weights=False)],
            "containers": [container],
        },
    }


def worker(settings: Settings, name: str) -> Object:
    """A pod that takes a node of the pool `name`."""
    pool = settings.cluster.node_pools[name]
    memory_gb = pod_memory_gb(pool)
    memory = megabytes(memory_gb)
    limits = {"memory": memory}
    if pool.gpus:
        limits["nvidia.com/gpu"] = str(pool.gpus)
    container = {
        **_ray(settings, "ray-worker"),
        "resources": {
            "requests": {"cpu": millicores(pool.cpus * pool.kubernetes.share), **limits},
            # Without a limit of cores: it would throttle bursts of decoding on a node that nobody shares.
            "limits": limits,
        },
        "ports": _serving_ports(settings),
        # Through this pod's own ingress to a router: a pod that cannot reach one gets no traffic. Not /v1/readyz, which
        # one model that is away fails: all pods would leave the service together.
        "readinessProbe": _probe("/v1/healthz", "serve", period_s=5, failures=2),
        "lifecycle": {"preStop": {"exec": {"command": [ARGUS, "k8s", "drain", "--seconds", str(settings.drain_s)]}}},
    }
    container["volumeMounts"] = [*container["volumeMounts"], {"name": "state", "mountPath": str(STATE)}]
    if weights.needed(settings.cluster):
        container["volumeMounts"].append({"name": "weights", "mountPath": str(WEIGHTS), "readOnly": True})
    spec: dict[str, Any] = {
        **_pod(settings, shared_memory_gb=memory_gb * _SHARED_MEMORY_SHARE),
        "priorityClassName": f"{NAME}-worker",
        "terminationGracePeriodSeconds": settings.grace_s,
        "automountServiceAccountToken": False,
        "initContainers": [prepare(settings, wait_for_weights=True)],
        "containers": [container],
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "topology.kubernetes.io/zone",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": labels("worker") | {POOL_LABEL: name}},
            }
        ],
    }
    spec["volumes"] = [*spec["volumes"], *_worker_volumes(settings.cluster)]
    if selector := node_selector(pool, f"node_pools.{name}"):
        spec["nodeSelector"] = selector
    if found := tolerations(pool):
        spec["tolerations"] = found
    return {"metadata": {"labels": labels("worker") | {POOL_LABEL: name}}, "spec": spec}


def object_store_bytes(pool: NodePool) -> int:
    """Ray's store of objects on a pool's node."""
    return int(pod_memory_gb(pool) * 1e9 * _OBJECT_STORE_SHARE)


def prepare(settings: Settings, *, wait_for_weights: bool) -> Object:
    """The init container that writes the ingress' files and, in workers, waits for the weights."""
    command = [ARGUS, "k8s", "prepare"]
    mounts = [{"name": "ingress", "mountPath": str(INGRESS)}, *scratch_mounts()]
    if settings.cluster.server.tuned_ingress:
        command += ["--ingress", str(INGRESS), "--stats-port", str(STATS_PORT)]
    if wait_for_weights and weights.needed(settings.cluster):
        command += ["--weights", str(weights.marker(settings.cluster))]
        mounts.append({"name": "weights", "mountPath": str(WEIGHTS), "readOnly": True})
    return {
        "name": "prepare",
        "image": settings.image,
        "imagePullPolicy": "IfNotPresent",
        "command": command,
        "env": environment.as_list(environment.caches()),
        "resources": {"requests": {"cpu": "100m", "memory": "512M"}, "limits": {"memory": "1000M"}},
        "securityContext": container_security(),
        "volumeMounts": mounts,
    }


def _ray(settings: Settings, name: str) -> Object:
    mounts = [
        {"name": "cluster-file", "mountPath": str(CONFIG), "readOnly": True},
        {"name": "ingress", "mountPath": str(INGRESS)},
        {"name": "shared-memory", "mountPath": "/dev/shm"},
        *scratch_mounts(),
    ]
    if not settings.local:
        mounts.append({"name": "api-keys", "mountPath": str(KEYS.parent), "readOnly": True})
    if _key_files(settings.cluster):
        mounts.append({"name": "provider-files", "mountPath": str(PROVIDER_FILES), "readOnly": True})
    return {
        "name": name,
        "image": settings.image,
        "imagePullPolicy": "IfNotPresent",
        "env": environment.variables(settings),
        "securityContext": container_security(),
        "volumeMounts": mounts,
        "startupProbe": _probe("/api/local_raylet_healthz", "agent", period_s=5, failures=60),
        # The raylet is what this pod is. A router that hangs is Ray Serve's to replace, with its own health checks.
        "livenessProbe": _probe("/api/local_raylet_healthz", "agent", period_s=10, failures=6),
    }


def _pod(settings: Settings, *, shared_memory_gb: float) -> Object:
    volumes: list[dict[str, Any]] = [
        {"name": "cluster-file", "configMap": {"name": cluster_file.config_map(settings.cluster)["metadata"]["name"]}},
        {"name": "ingress", "emptyDir": {"sizeLimit": "16Mi"}},
        {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": megabytes(shared_memory_gb)}},
        *scratch_volumes(),
    ]
    if not settings.local:
        volumes.append({"name": "api-keys", "secret": {"secretName": KEYS_SECRET}})
    if _key_files(settings.cluster):
        volumes.append({"name": "provider-files", "secret": {"secretName": PROVIDERS_SECRET, "optional": True}})
    # Version 2 of Ray's autoscaler replaces pods, so a container is never started again in one.
    return {"restartPolicy": "Never", "securityContext": pod_security(), "volumes": volumes}


def _worker_volumes(cluster: ClusterFile) -> list[dict[str, Any]]:
    volumes = [{"name": "state", "persistentVolumeClaim": {"claimName": f"{NAME}-state"}}]
    if weights.needed(cluster):
        volumes.append({"name": "weights", "persistentVolumeClaim": {"claimName": f"{NAME}-weights", "readOnly": True}})
    return volumes


def scratch_volumes() -> list[dict[str, Any]]:
    """Room for what is written and may be lost: Ray's session with its logs, and caches."""
    return [
        {"name": "tmp", "emptyDir": {"sizeLimit": "20Gi"}},
        {"name": "home", "emptyDir": {"sizeLimit": "20Gi"}},
    ]


def scratch_mounts() -> list[dict[str, Any]]:
    """Where `scratch_volumes` are."""
    return [{"name": "tmp", "mountPath": "/tmp"}, {"name": "home", "mountPath": "/home/argus"}]


def _key_files(cluster: ClusterFile) -> bool:
    return any(provider.api_key_file for provider in cluster.providers.values())


def _serving_ports(settings: Settings) -> list[dict[str, Any]]:
    """The operator puts ports named `serve` and `serve-*` of the head's container into the Service."""
    server = settings.cluster.server
    ports = [
        _port("serve", server.http_port),
        _port("serve-grpc", server.grpc_port),
        _port("metrics", METRICS_PORT),
        _port("agent", AGENT_PORT),
    ]
    return [*ports, _port("ingress-metrics", INGRESS_METRICS_PORT)] if server.tuned_ingress else ports


def _port(name: str, number: int) -> dict[str, Any]:
    return {"name": name, "containerPort": number}


def _probe(path: str, port: str, *, period_s: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": port},
        "periodSeconds": period_s,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }
