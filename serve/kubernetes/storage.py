"""Volumes: what stores keep, and weights."""

from __future__ import annotations

from serve.kubernetes import weights
from serve.kubernetes.settings import NAME, Object, Settings, made


def claims(settings: Settings) -> list[Object]:
    """Claims of volumes that pods on several nodes have at once; on one machine a volume of that node does.

    A store locks its folder with a POSIX record lock, so the file system must know those across nodes.
    """
    modes = ["ReadWriteOnce"] if settings.local else ["ReadWriteMany"]
    sizes = {"state": "5Gi" if settings.local else "200Gi"}
    if weights.needed(settings.cluster):
        sizes["weights"] = "300Gi"
    return [
        made(
            "PersistentVolumeClaim",
            f"{NAME}-{name}",
            "storage",
            {"accessModes": modes, "resources": {"requests": {"storage": size}}},
            api="v1",
        )
        for name, size in sizes.items()
    ]
