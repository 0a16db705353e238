"""The `kubernetes` section of a node pool: what `argus k8s render` needs to know of its nodes, and Ray does not."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from serve.config.model_base import Section


class Toleration(Section):
    """A taint that pods of the pool put up with."""

    key: str = Field("nvidia.com/gpu", min_length=1, description="Key of the taint.")
    operator: Literal["Exists", "Equal"] = Field("Exists", description="`Equal` compares `value` as well.")
    value: str | None = Field(None, description="Value of the taint, with `Equal`.")
    effect: Literal["NoSchedule", "NoExecute", "PreferNoSchedule"] = Field(
        "NoSchedule", description="Effect of the taint."
    )


class PoolOnKubernetes(Section):
    """How a pool is made of a Kubernetes cluster's nodes; one pod of Ray takes one node."""

    node_selector: dict[str, str] | None = Field(
        None,
        description="Labels of its nodes. By default `nvidia.com/gpu.product` (GPU Feature Discovery) of the GPU for "
        "T4, L4, A10G, A100 and H100; none on CPU.",
    )
    tolerations: tuple[Toleration, ...] | None = Field(
        None, description="Taints put up with. By default `nvidia.com/gpu` where there are GPUs."
    )
    share: float = Field(
        0.85,
        gt=0,
        le=1,
        description="Part of a node's cores and memory that the pod asks for; the rest is for the kubelet and daemons.",
    )
    idle_timeout_s: int = Field(600, ge=1, description="Seconds without work after which Ray gives a node back.")
    priority: int = Field(
        0, ge=0, description="Of pools that would do, Ray's autoscaler adds nodes to the one with the highest."
    )
