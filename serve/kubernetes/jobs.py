"""Jobs: weights are fetched before pods need them, and load is generated when somebody says so."""

from __future__ import annotations

from typing import Any

from serve.kubernetes import cluster_file, environment, weights
from serve.kubernetes.pods import ARGUS, container_security, pod_security, scratch_mounts, scratch_volumes
from serve.kubernetes.settings import (
    CLIENT_LABEL,
    CONFIG,
    HUB_SECRET,
    LOAD_SECRET,
    NAME,
    WEIGHTS,
    Object,
    Settings,
    labels,
    made,
)


def pull_weights(settings: Settings) -> Object:
    """The Job that fills the volume of weights; named after them, since a Job cannot be changed."""
    token = {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": HUB_SECRET, "key": "token", "optional": True}}}
    container = {
        **_container(settings.image, ["k8s", "pull", "--config", str(cluster_file.PATH), "--into", str(WEIGHTS)]),
        "env": [*environment.as_list(environment.caches()), token],
        "resources": {"requests": {"cpu": "500m", "memory": "2000M"}, "limits": {"memory": "4000M"}},
    }
    container["volumeMounts"] += [
        {"name": "cluster-file", "mountPath": str(CONFIG), "readOnly": True},
        {"name": "weights", "mountPath": str(WEIGHTS)},
    ]
    config = {"name": cluster_file.config_map(settings.cluster)["metadata"]["name"]}
    volumes = [
        {"name": "cluster-file", "configMap": config},
        {"name": "weights", "persistentVolumeClaim": {"claimName": f"{NAME}-weights"}},
    ]
    return _job(
        f"{NAME}-weights-{weights.digest(settings.cluster)}",
        "weights",
        _pod(container, volumes, labels("weights")),
        {"backoffLimit": 6, "activeDeadlineSeconds": 14_400},
    )


def load_test(settings: Settings) -> Object:
    """The Job that runs `argus load` (open-loop Locust) in the cluster. Suspended: applying it starts no load."""
    workload, hardware, processes = settings.load
    server = settings.cluster.server
    arguments = ["load", workload, "--profile", hardware, "--workers", str(processes)]
    arguments += ["--host", f"http://{NAME}:{server.http_port}", "--grpc", f"{NAME}:{server.grpc_port}"]
    env = environment.as_list(environment.caches())
    if not settings.local:
        arguments += ["--key-env", "ARGUS_API_KEY"]
        reference = {"name": LOAD_SECRET, "key": "api-key"}
        env.append({"name": "ARGUS_API_KEY", "valueFrom": {"secretKeyRef": reference}})
    container = {
        **_container(settings.load_image, arguments),
        "env": env,
        "resources": {"requests": {"cpu": str(processes), "memory": "4000M"}, "limits": {"memory": "4000M"}},
    }
    pod = _pod(container, [], labels("load") | {CLIENT_LABEL: "true"})
    return _job(f"{NAME}-load", "load", pod, {"suspend": True, "backoffLimit": 0, "activeDeadlineSeconds": 7200})


def _container(image: str, arguments: list[str]) -> dict[str, Any]:
    return {
        "name": "argus",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": [ARGUS, *arguments],
        "securityContext": container_security(),
        "volumeMounts": scratch_mounts(),
    }


def _pod(container: Object, volumes: list[Object], pod_labels: dict[str, str]) -> Object:
    return {
        "metadata": {"labels": pod_labels},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "priorityClassName": f"{NAME}-batch",
            "securityContext": pod_security(),
            "containers": [container],
            "volumes": [*volumes, *scratch_volumes()],
        },
    }


def _job(name: str, component: str, pod: Object, rules: dict[str, Any]) -> Object:
    return made("Job", name, component, rules | {"template": pod}, api="batch/v1")
