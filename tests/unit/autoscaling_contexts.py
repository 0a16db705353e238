"""What Ray Serve's controller hands to a policy, on a clock of the test's."""

from __future__ import annotations

from typing import Any

from ray.serve._private.common import DeploymentID, ReplicaID, TimeStampedValue
from ray.serve.config import AutoscalingConfig, AutoscalingContext

from serve.placement import ROUTER


class Clock:
    """In the place of `time`."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


def context(
    name: str, clock: Clock, *, running: int = 1, target: int = 1, ongoing: Any = 0.0, raw: Any = None, **config: Any
) -> AutoscalingContext:
    """As the controller makes it for a deployment."""
    scaling = AutoscalingConfig(min_replicas=0, max_replicas=20, upscale_delay_s=0, downscale_delay_s=0, **config)
    return AutoscalingContext(
        deployment_id=DeploymentID(name, "argus"),
        deployment_name=name,
        app_name="argus",
        current_num_replicas=running,
        target_num_replicas=target,
        running_replicas=[],
        total_num_requests=ongoing,
        total_queued_requests=0.0,
        aggregated_metrics=None,
        raw_metrics=raw,
        capacity_adjusted_min_replicas=0,
        capacity_adjusted_max_replicas=20,
        policy_state={},
        last_scale_up_time=None,
        last_scale_down_time=None,
        current_time=clock.now,
        config=scaling,
    )


def said(clock: Clock, **totals: float) -> dict[str, Any]:
    """A router replica's last word among Ray's series, with one of Ray's own and an older point."""
    replica = ReplicaID("abc", DeploymentID(ROUTER, "argus"))
    series = {
        name: {replica: [TimeStampedValue(clock.now - 2, 0.0), TimeStampedValue(clock.now, value)]}
        for name, value in totals.items()
    }
    return series | {"running_requests": {replica: [TimeStampedValue(clock.now, 3.0)]}}
