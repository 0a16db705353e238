"""Metrics of cascades, made with Ray's metric API; counts are gathered and handed over a few times a second."""

from __future__ import annotations

import asyncio
from collections import Counter as Counts

from ray.util.metrics import Counter, Histogram

from deployments.gauges import Gauge
from serve.cascade.recorder import Ran, ShadowResult
from serve.latencies import LATENCIES_S
from serve.objectives import ObjectiveMetrics

_FLUSH_S = 0.25
_CONFIDENCES = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99]


class CascadeMetrics:
    """A `serve.cascade.recorder.CascadeRecorder`. Label values are names of the cluster file, or error codes.

    Args:
        objectives: are told of each cascade and shadow check.
    """

    def __init__(self, objectives: ObjectiveMetrics) -> None:
        self._objectives = objectives
        self._requests = Counter(
            "argus_cascade_requests_total",
            "Cascades by result (`ok`, `unsure`, `degraded`, an error code), outcome (allow, block, review, none) and "
            "whose fault a failure is (none, client, server, gone).",
            tag_keys=("cascade", "result", "outcome", "fault"),
        )
        self._escalations = Counter(
            "argus_cascade_escalations_total", "Cascades that called more than their first step.", tag_keys=("cascade",)
        )
        self._steps = Counter(
            "argus_cascade_steps_total",
            "Calls of steps by result (accepted, went_on, failed, skipped).",
            tag_keys=("cascade", "step", "model", "result"),
        )
        self._shadows = Counter(
            "argus_cascade_shadow_total",
            "Accepted answers by what the next step said (agreed, disagreed, failed, dropped).",
            tag_keys=("cascade", "step", "result"),
        )
        self._seconds = Histogram(
            "argus_cascade_seconds",
            "All steps together, by whose fault a failure is and the step that answered (none where none did).",
            boundaries=list(LATENCIES_S),
            tag_keys=("cascade", "fault", "path"),
        )
        self._step_seconds = Histogram(
            "argus_cascade_step_seconds",
            "One step's call.",
            boundaries=list(LATENCIES_S),
            tag_keys=("cascade", "step"),
        )
        self._confidence = Histogram(
            "argus_cascade_confidence",
            "Confidence of steps' answers, calibrated where the step is.",
            boundaries=_CONFIDENCES,
            tag_keys=("cascade", "step"),
        )
        self._uncalibrated = Gauge(
            "argus_cascade_uncalibrated", "1 when a threshold was typed in instead of certified.", tag_keys=("cascade",)
        )
        self._drift = Gauge(
            "argus_cascade_drift_alarm",
            "1 when more of a step's accepted answers are wrong than the file allows.",
            tag_keys=("cascade", "step"),
        )
        self._evidence = Gauge(
            "argus_cascade_drift_evidence",
            "How many times more a step's shadow checks speak for a drift than against; the alarm is raised at 100.",
            tag_keys=("cascade", "step"),
        )
        self._saved = Counter(
            "argus_cascade_saved_usd_total",
            "What the last step would usually have cost, in US dollars, for answers that were accepted before it.",
            tag_keys=("cascade",),
        )
        self._gear = Gauge("argus_cascade_gear", "Gear in use; 0 is the normal one.", tag_keys=("cascade",))
        self._counted: Counts[tuple[Counter, tuple[tuple[str, str], ...]]] = Counts()
        self._saved_usd: dict[str, float] = {}
        self._flush_due = False

    def ran(self, ran: Ran) -> None:
        """See `CascadeRecorder`."""
        cascade = {"cascade": ran.cascade}
        self._count(self._requests, cascade | {"result": ran.result, "outcome": ran.outcome, "fault": ran.fault})
        if ran.saved_usd > 0:
            self._saved_usd[ran.cascade] = self._saved_usd.get(ran.cascade, 0.0) + ran.saved_usd
        if ran.escalated:
            self._count(self._escalations, cascade)
        self._objectives.cascade(ran.cascade, ran.fault, ran.seconds, escalated=ran.escalated)
        self._seconds.observe(ran.seconds, tags=cascade | {"fault": ran.fault, "path": ran.path})
        for entry in ran.trace:
            step = cascade | {"step": entry.step}
            self._count(self._steps, step | {"model": entry.model, "result": entry.result})
            if entry.result != "skipped":
                self._step_seconds.observe(entry.seconds, tags=step)
            if entry.confidence is not None:
                self._confidence.observe(entry.confidence, tags=step)

    def shadowed(self, cascade: str, step: str, result: ShadowResult) -> None:
        """See `CascadeRecorder`."""
        self._count(self._shadows, {"cascade": cascade, "step": step, "result": result})
        self._objectives.shadow(cascade, result)

    def drifting(self, cascade: str, step: str, alarm: bool, evidence: float) -> None:
        """See `CascadeRecorder`."""
        self._evidence.set(evidence, tags={"cascade": cascade, "step": step})
        self._drift.set(int(alarm), tags={"cascade": cascade, "step": step})

    def calibrated(self, cascade: str, calibrated: bool) -> None:
        """See `CascadeRecorder`."""
        self._uncalibrated.set(int(not calibrated), tags={"cascade": cascade})

    def geared(self, cascade: str, level: int) -> None:
        """See `CascadeRecorder`."""
        self._gear.set(level, tags={"cascade": cascade})

    def flush(self) -> None:
        """Hands over what has been gathered."""
        self._flush_due = False
        counted, self._counted = self._counted, Counts()
        for (counter, tags), count in counted.items():
            counter.inc(count, tags=dict(tags))
        saved, self._saved_usd = self._saved_usd, {}
        for cascade, usd in saved.items():
            self._saved.inc(usd, tags={"cascade": cascade})

    def _count(self, counter: Counter, tags: dict[str, str]) -> None:
        self._counted[counter, tuple(tags.items())] += 1
        if not self._flush_due:
            self._flush_due = True
            asyncio.get_running_loop().call_later(_FLUSH_S, self.flush)
