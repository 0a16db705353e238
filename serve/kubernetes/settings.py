"""What is rendered, and names that several objects share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final, Literal

from serve import rollout
from serve.config.cluster import ClusterFile, NodePool
from serve.errors import ConfigError

Object = dict[str, Any]

NAME: Final = "argus"
USER: Final = 10001
"""Number of the user in our images (docker/)."""

APPLICATION_DIR: Final = PurePosixPath("/argus")
STATE: Final = APPLICATION_DIR / "var"
WEIGHTS: Final = PurePosixPath("/weights")
CONFIG: Final = PurePosixPath("/etc/argus")
KEYS: Final = PurePosixPath("/etc/argus-keys/keys.yaml")
PROVIDER_FILES: Final = PurePosixPath("/etc/argus-providers")
INGRESS: Final = PurePosixPath("/run/argus")

KEYS_SECRET: Final = "argus-api-keys"
PROVIDERS_SECRET: Final = "argus-providers"
REDIS_SECRET: Final = "argus-redis"
HUB_SECRET: Final = "argus-hub"
LOAD_SECRET: Final = "argus-load"
TLS_SECRET: Final = "argus-tls"

POOL_LABEL: Final = "argus.dev/pool"
"""On pods, and on Ray's nodes: replicas are bound to their pool by it."""

COMPONENT: Final = "app.kubernetes.io/component"
CLIENT_LABEL: Final = "argus.dev/client"
"""Pods with the value `true` may call the service."""

STATS_PORT: Final = 8404
INGRESS_METRICS_PORT: Final = 9101
FALLBACK_PORTS: Final = (8500, 9500)
METRICS_PORT: Final = 8080
AUTOSCALER_METRICS_PORT: Final = 44217
DASHBOARD_METRICS_PORT: Final = 44227
AGENT_PORT: Final = 52365
GCS_PORT: Final = 6379
DASHBOARD_PORT: Final = 8265

_DNS_LABEL = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")
_TAG = re.compile(r"[\w][\w.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Settings:
    """One overlay: a cluster file and how it is run.

    Attributes:
        overlay: its name, a folder below `overlays`.
        image: of all pods that serve; pinned.
        load_image: of the load test.
        local: one machine for trying out (kind): no API keys, no Gateway, no Prometheus operator, volumes of one node.
        redis: `redis://HOST:PORT` of your own, for Ray's GCS; by default one is rendered.
        upgrade: `new-cluster`, or `incremental`, which moves HTTP in steps and knows no gRPC.
        gateway_class: of the Gateway.
        keys_revision: changed when the keys in the Secret have.
        load: workload, class of hardware and processes of the load test.
    """

    cluster: ClusterFile
    overlay: str
    image: str
    load_image: str
    local: bool = False
    redis: str | None = None
    upgrade: Literal["new-cluster", "incremental"] = "new-cluster"
    gateway_class: str = "istio"
    keys_revision: str = "1"
    load: tuple[str, str, int] = ("classification", "t4", 4)

    def __post_init__(self) -> None:
        for option, image in (("--image", self.image), ("--load-image", self.load_image)):
            check_pinned(image, option)
        if not _DNS_LABEL.fullmatch(self.overlay):
            raise ConfigError(f"overlay: got {self.overlay!r}; it must be lower-case letters, digits and -")
        for pool in self.cluster.node_pools:
            if not _DNS_LABEL.fullmatch(pool):
                raise ConfigError(
                    f"node_pools.{pool}: names a worker group; on Kubernetes it must be lower-case letters, digits, -"
                )
        if self.redis is not None and not re.fullmatch(r"rediss?://[^@/:\s]+:\d+", self.redis):
            raise ConfigError(f"--redis: got {self.redis!r}; it must be redis://HOST:PORT, without a password")

    @property
    def drain_s(self) -> int:
        """How long replicas may go on with what they have begun, in seconds."""
        return rollout.drain_s(self.cluster)

    @property
    def grace_s(self) -> int:
        """How long a pod has to end, in seconds: its replicas' drain, and Ray's own end after it."""
        return self.drain_s + 45


def check_pinned(image: str, option: str) -> None:
    """Refuses an image that may be another one tomorrow.

    Raises:
        ConfigError: it has neither a digest nor a version, or its tag is `latest`.
    """
    name, at, digest = image.partition("@")
    if at:
        if _DIGEST.fullmatch(digest) and name:
            return
        raise ConfigError(f"{option}: got {image!r}; a digest is sha256: and 64 hexadecimal digits")
    tag = name.rpartition("/")[2].partition(":")[2]
    if tag == "latest" or not _TAG.fullmatch(tag) or name.startswith(":"):
        raise ConfigError(f"{option}: got {image!r}; pin it by a version (NAME:1.2.3) or a digest (NAME@sha256:...)")


def labels(component: str) -> dict[str, str]:
    """Of an object, and in selectors of its pods."""
    return {"app.kubernetes.io/name": NAME, COMPONENT: component}


def made(kind: str, name: str, component: str, spec: Mapping[str, Any], *, api: str) -> Object:
    """An object with a `spec`."""
    return {
        "apiVersion": api,
        "kind": kind,
        "metadata": {"name": name, "labels": labels(component)},
        "spec": dict(spec),
    }


def megabytes(gigabytes: float) -> str:
    """A quantity of memory; GB and M are decimal (1e9 and 1e6 bytes)."""
    return f"{int(gigabytes * 1000)}M"


def millicores(cores: float) -> str:
    """A quantity of CPU."""
    return f"{int(cores * 1000)}m"


def pod_memory_gb(pool: NodePool) -> float:
    """Main memory of a pool's pod, in GB."""
    return pool.memory_gb * pool.kubernetes.share
