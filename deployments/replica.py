"""Metrics of a model replica, made with Ray's metric API: the node's agent exports them (prefix `ray_`)."""

from __future__ import annotations

from collections.abc import Sequence

from ray.util.metrics import Counter, Histogram

# 1 ms to 10 s, three steps a decade: the span between a cache-warm CLIP and a large generation.
SECONDS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0]
SIZES = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0]


class ReplicaMetrics:
    """A `BatchObserver` that reports to Ray. One label, the model's name, whose values the cluster file bounds."""

    def __init__(self, model: str) -> None:
        self._wait = Histogram(
            "argus_queue_wait_seconds",
            "From submit to the start of the forward pass.",
            boundaries=SECONDS,
            tag_keys=("model",),
        )
        self._forward = Histogram("argus_forward_seconds", "One forward pass.", boundaries=SECONDS, tag_keys=("model",))
        self._busy = Counter(
            "argus_forward_busy_seconds_total",
            "Time in forward passes; its rate is the share of its time that a replica is busy.",
            tag_keys=("model",),
        )
        self._preprocess = Histogram(
            "argus_preprocess_seconds", "Decoding and shaping one item.", boundaries=SECONDS, tag_keys=("model",)
        )
        self._size = Histogram("argus_batch_items", "Items in one forward pass.", boundaries=SIZES, tag_keys=("model",))
        self._dropped = Counter(
            "argus_dropped_items_total", "Items that left the queue without running.", tag_keys=("model", "reason")
        )
        self._retried = Counter(
            "argus_batch_retries_total", "Batches run again item by item after a failure.", tag_keys=("model",)
        )
        timed = (self._wait, self._forward, self._busy, self._preprocess)
        for metric in (*timed, self._size, self._dropped, self._retried):
            metric.set_default_tags({"model": model})

    def batch_ran(self, *, items: int, cost: float, forward_s: float, waits_s: Sequence[float]) -> None:
        """See `BatchObserver`."""
        self._size.observe(items)
        self._forward.observe(forward_s)
        if forward_s > 0:  # Ray refuses to add nothing
            self._busy.inc(forward_s)
        for wait in waits_s:
            self._wait.observe(wait)

    def dropped(self, reason: str) -> None:
        """See `BatchObserver`."""
        self._dropped.inc(tags={"reason": reason})

    def retried_alone(self, items: int) -> None:
        """See `BatchObserver`."""
        self._retried.inc()

    def preprocess_took(self, seconds: float) -> None:
        """Takes in one item's preprocessing time."""
        self._preprocess.observe(seconds)
