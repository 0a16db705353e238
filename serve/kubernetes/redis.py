"""Redis for Ray's GCS: what the head knows outlives it. One server with an append-only file; put a managed one in its
place with `--redis`."""

from __future__ import annotations

from serve.kubernetes.settings import GCS_PORT, NAME, REDIS_SECRET, USER, Object, labels, made

REDIS = f"{NAME}-redis"
PORT = GCS_PORT
ADDRESS = f"redis://{REDIS}:{PORT}"
IMAGE = "docker.io/library/redis:7.4.2-alpine"

_PASSWORD = {"name": "REDIS_PASSWORD", "valueFrom": {"secretKeyRef": {"name": REDIS_SECRET, "key": "password"}}}


def objects() -> list[Object]:
    """StatefulSet and Service."""
    ports = [{"name": "redis", "port": PORT, "targetPort": "redis"}]
    service = {"clusterIP": "None", "selector": labels("redis"), "ports": ports}
    return [made("Service", REDIS, "redis", service, api="v1"), _stateful_set()]


def _stateful_set() -> Object:
    claim = {
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "5Gi"}}},
    }
    spec = {
        "serviceName": REDIS,
        "replicas": 1,
        "selector": {"matchLabels": labels("redis")},
        "template": {"metadata": {"labels": labels("redis")}, "spec": _pod()},
        "volumeClaimTemplates": [claim],
    }
    return made("StatefulSet", REDIS, "redis", spec, api="apps/v1")


def _pod() -> Object:
    # The password stays in the environment: an argument would stand in the list of processes.
    server = (
        'printf "requirepass %s\\nappendonly yes\\nappendfsync everysec\\ndir /data\\nmaxmemory-policy noeviction\\n"'
        ' "$REDIS_PASSWORD" > /run/redis/redis.conf && exec redis-server /run/redis/redis.conf'
    )
    ping = ["sh", "-c", 'REDISCLI_AUTH="$REDIS_PASSWORD" redis-cli ping | grep -q PONG']
    container = {
        "name": "redis",
        "image": IMAGE,
        "command": ["sh", "-c", server],
        "env": [_PASSWORD],
        "ports": [{"name": "redis", "containerPort": PORT}],
        "resources": {"requests": {"cpu": "100m", "memory": "512M"}, "limits": {"memory": "512M"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "readinessProbe": {"exec": {"command": ping}, "periodSeconds": 5, "timeoutSeconds": 3},
        "livenessProbe": {"exec": {"command": ping}, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6},
        "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "run", "mountPath": "/run/redis"}],
    }
    return {
        "automountServiceAccountToken": False,
        "priorityClassName": f"{NAME}-head",
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [{"name": "run", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}],
    }
