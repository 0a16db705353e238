"""The `autoscaling` sections of a cluster file: who decides how many replicas there are, and a model's own bounds.

docs/autoscaling.md says how it is decided.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from serve.config.section import Section

if TYPE_CHECKING:
    from serve.config.cluster import ClusterFile

PolicyName = Literal["queue", "cascade"]


class ReplicaPolicy(Section):
    """Who decides how many replicas there are, for all models whose number may change."""

    policy: PolicyName = Field(
        "cascade",
        description="`queue`: Ray Serve's own, by the requests in progress at each model; `cascade`: that, and as many "
        "more as the calls will need that the routers expect from what arrives at the first steps of cascades. Without "
        "such evidence `cascade` decides as `queue` does, and it never wants fewer, so it is the default.",
    )
    start_s: float = Field(
        60,
        gt=0,
        le=3600,
        description="For `cascade`: seconds from the wish for a replica to its first answer, of models that state none "
        "of their own; what has been measured takes its place. So far ahead the load is forecast.",
    )
    max_wait_s: float | None = Field(
        None,
        gt=0,
        description="For `cascade`: mean seconds that a model's calls may take beyond what they take alone, by waiting "
        "and by sharing a batch; by default half of that, and at least 20 ms.",
    )
    window_s: float = Field(
        60, ge=10, le=600, description="For `cascade`: seconds of arrivals from which their trend is taken."
    )


class Autoscaling(Section):
    """Replica count (ray.serve.config.AutoscalingConfig)."""

    min_replicas: int = Field(1, ge=0, description="Fewest replicas; with 0 the first call waits for one to start.")
    max_replicas: int = Field(1, ge=1, description="Most replicas.")
    target_ongoing_requests: float = Field(
        16, gt=0, description="Running plus queued requests a replica that Ray Serve steers towards."
    )
    upscale_delay_s: float = Field(10, ge=0, description="Seconds of high load before replicas are added.")
    downscale_delay_s: float = Field(300, ge=0, description="Seconds of low load before replicas are removed.")
    start_s: float | None = Field(
        None, gt=0, le=3600, description="Seconds until a new replica answers; `autoscaling.start_s` when left out."
    )
    max_wait_s: float | None = Field(
        None, gt=0, description="For policy `cascade`; `autoscaling.max_wait_s` when left out."
    )
    calls_per_s: float | None = Field(
        None,
        gt=0,
        description="For policy `cascade`: calls a second that one replica does within `max_wait_s`; measured while it "
        "serves when left out.",
    )
    cold_queue: int = Field(
        64,
        ge=1,
        le=10_000,
        description="With min_replicas 0: calls that a router replica lets wait while the first replica starts; more "
        "get a 503 with the time that is left.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Autoscaling:
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas is {self.min_replicas}, max_replicas is {self.max_replicas}; min must not exceed max"
            )
        return self

    @property
    def fixed(self) -> bool:
        """The number of replicas never changes."""
        return self.min_replicas == self.max_replicas


def autoscaling_problems(cluster: ClusterFile) -> Iterator[str]:
    """What is set and would have no effect."""
    if cluster.autoscaling.policy != "queue":
        return
    for name, model in cluster.models.items():
        for key in ("max_wait_s", "calls_per_s"):
            if (value := getattr(model.autoscaling, key)) is not None:
                yield (
                    f"models.{name}.autoscaling.{key}: got {value:g}, which autoscaling.policy 'queue' does not look "
                    "at; leave it out, or say policy: cascade"
                )
