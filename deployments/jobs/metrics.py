"""Metrics of the job store, made with Ray's metric API."""

from __future__ import annotations

from collections.abc import Mapping

from ray.util.metrics import Histogram

from deployments.gauges import Gauge
from deployments.jobs.types import STATES, Job

# 1 s is a job that was none; a day is the longest film over a busy cluster.
_SECONDS = [1.0, 3.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0]


class JobMetrics:
    """Series of the store; operations are those of the code, so labels are bounded."""

    def __init__(self) -> None:
        self._jobs = Gauge("argus_jobs", "Jobs in the store by state.", tag_keys=("state",))
        self._age = Gauge("argus_job_queue_age_seconds", "Time that the job waiting longest has waited for a worker.")
        self._seconds = Histogram(
            "argus_job_seconds",
            "From the submission of a job to its end.",
            boundaries=_SECONDS,
            tag_keys=("operation", "state"),
        )

    def ended(self, job: Job) -> None:
        """A job ended."""
        assert job.ended_at is not None
        seconds = job.ended_at - job.created_at
        self._seconds.observe(seconds, tags={"operation": job.operation, "state": job.state})

    def holds(self, states: Mapping[str, int], age_s: float) -> None:
        """What is in the store now."""
        for state in STATES:
            self._jobs.set(states.get(state, 0), tags={"state": state})
        self._age.set(age_s)
