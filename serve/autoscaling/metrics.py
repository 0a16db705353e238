"""Metrics of the policy, made in Ray Serve's controller."""

from __future__ import annotations

from ray.util.metrics import Counter

from deployments.gauges import Gauge
from serve.autoscaling.decide import Wanted


class PolicyMetrics:
    """What is decided, and whether deciding works."""

    def __init__(self) -> None:
        self._expected = Gauge(
            "argus_autoscaling_expected_calls",
            "Calls a second that the autoscaler expects of a model when a replica that it starts now will answer.",
            tag_keys=("model",),
        )
        self._capacity = Gauge(
            "argus_autoscaling_replica_calls",
            "Calls a second that one replica of a model is taken to answer without taking too long.",
            tag_keys=("model",),
        )
        self._failures = Counter(
            "argus_autoscaling_failures_total", "Decisions that failed, so that Ray Serve's own rule took their place."
        )

    def decided(self, model: str, wanted: Wanted) -> None:
        """One decision; what is not known is not shown."""
        if wanted.calls_per_s is not None:
            self._expected.set(wanted.calls_per_s, tags={"model": model})
        if wanted.capacity_per_s is not None:
            self._capacity.set(wanted.capacity_per_s, tags={"model": model})

    def failed(self) -> None:
        """One decision failed."""
        self._failures.inc()
