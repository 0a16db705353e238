"""Metrics of admission, gathered and handed to Ray a few times a second: see `serve.metrics`."""

from __future__ import annotations

import asyncio
from collections import Counter as Counts
from collections.abc import Callable, Mapping

from ray.util.metrics import Counter

from deployments.gauges import Gauge
from serve.config.overload import Priority
from serve.resilience.admission import LaneState
from serve.resilience.shedding import ShedReason

_FLUSH_S = 0.25


class OverloadMetrics:
    """An `AdmissionRecorder` that reports to Ray. Its labels are classes, reasons and lanes (at most 65)."""

    def __init__(self) -> None:
        self._admitted = Counter(
            "argus_admitted_requests_total", "Requests let in at the edge.", tag_keys=("priority",)
        )
        self._shed = Counter(
            "argus_shed_requests_total",
            "Requests turned away at the edge: no place, long queue waits, or no hope of an answer in time.",
            tag_keys=("priority", "reason"),
        )
        self._wait = Gauge(
            "argus_lane_queue_wait_seconds", "Mean wait of a lane's calls over the last second.", tag_keys=("lane",)
        )
        self._cut = Gauge(
            "argus_lane_cut_classes",
            "Classes of a lane that are shed, from the lowest: 0 none, 0.5 half of the lowest.",
            tag_keys=("lane",),
        )
        self._counts: Counts[tuple[Priority, ShedReason | None]] = Counts()
        self._lanes: Callable[[], Mapping[str, LaneState]] = dict
        self._due = False

    def follow(self, lanes: Callable[[], Mapping[str, LaneState]]) -> None:
        """Where to look the lanes up."""
        self._lanes = lanes

    def admitted(self, priority: Priority) -> None:
        """See `AdmissionRecorder`."""
        self._counts[priority, None] += 1
        self._flush_soon()

    def shed(self, priority: Priority, reason: ShedReason) -> None:
        """See `AdmissionRecorder`."""
        self._counts[priority, reason] += 1
        self._flush_soon()

    def flush(self) -> None:
        """Hands over what has been gathered; again soon while a lane is busy, so that its gauges come down to 0."""
        self._due = False
        counts, self._counts = self._counts, Counts()
        for (priority, reason), count in counts.items():
            if reason is None:
                self._admitted.inc(count, tags={"priority": priority})
            else:
                self._shed.inc(count, tags={"priority": priority, "reason": reason})
        busy = False
        for lane, state in self._lanes().items():
            self._wait.set(state.queue_wait_s, tags={"lane": lane})
            self._cut.set(state.cut, tags={"lane": lane})
            busy |= state.queue_wait_s > 0 or state.cut > 0
        if busy:
            self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_later(_FLUSH_S, self.flush)
