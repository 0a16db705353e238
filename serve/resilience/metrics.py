"""Metrics of the guard: Ray's, exported with the prefix `ray_`.

Counts are gathered and handed over a few times a second, as those of `serve.metrics`: each call into Ray costs what a
request cannot spare. Labels are names of the cluster file, names of keys, and words of this module.
"""

from __future__ import annotations

import asyncio
from collections import Counter as Counts

from ray.util.metrics import Counter, Histogram

from deployments.gauges import Gauge
from deployments.replica import SECONDS
from serve.resilience.recorder import BreakerState, CacheResult, Counted, Stage

_FLUSH_S = 0.25
_STATES: dict[BreakerState, int] = {"closed": 0, "half_open": 1, "open": 2, "resting": 3}


class GuardMetrics:
    """A `serve.resilience.recorder.Recorder`; lives on the router's event loop."""

    def __init__(self) -> None:
        self._cache = Counter(
            "argus_cache_results_total",
            "Calls by what the cache had: hit, shared_hit (Redis), negative_hit (a failure), miss; store_failed.",
            tag_keys=("target", "result"),
        )
        self._joined = Counter(
            "argus_single_flight_joined_total", "Calls that shared one which was in progress.", tag_keys=("target",)
        )
        self._refused = Counter(
            "argus_calls_refused_total",
            "Calls refused before an attempt, by the stage that did.",
            tag_keys=("target", "stage"),
        )
        self._attempts = Counter(
            "argus_call_attempts_total",
            "Attempts by outcome: ok, a failure class, cancelled.",
            tag_keys=("target", "outcome"),
        )
        self._retries = Counter(
            "argus_call_retries_total", "Attempts that followed a failed one.", tag_keys=("target",)
        )
        self._hedges = Counter(
            "argus_call_hedges_total",
            "Second attempts beside a late one, by whether they won.",
            tag_keys=("target", "won"),
        )
        self._spent_usd = Counter(
            "argus_provider_spent_usd_total", "Money for providers, in US dollars.", tag_keys=("target",)
        )
        self._shared_store = Counter(
            "argus_shared_store_questions_total",
            "Questions to Redis, by whether it answered in time.",
            tag_keys=("answered",),
        )
        self._budget_left = Gauge(
            "argus_budget_left_usd",
            "Money left for today (UTC), in US dollars; `*` for all tenants. `counted`: shared, by Redis for all "
            "router replicas, or replica, by each for its part.",
            tag_keys=("tenant", "counted"),
        )
        self._budget = Gauge(
            "argus_budget_usd",
            "Money for a day, in US dollars, of which `argus_budget_left_usd` is left: all of it where Redis counts, "
            "else the replica's part.",
            tag_keys=("tenant", "counted"),
        )
        self._limit = Gauge(
            "argus_call_concurrency_limit", "Calls that a router replica may have in progress.", tag_keys=("target",)
        )
        self._in_flight = Gauge(
            "argus_calls_in_flight", "Calls that a router replica has in progress.", tag_keys=("target",)
        )
        self._waiting = Gauge(
            "argus_calls_waiting", "Calls that wait for a place in a router replica.", tag_keys=("target",)
        )
        self._breaker = Gauge(
            "argus_breaker_state", "0 closed, 1 half open, 2 open, 3 resting after a 429.", tag_keys=("target",)
        )
        self._attempt_seconds = Histogram(
            "argus_call_attempt_seconds", "Seconds that attempts last.", boundaries=SECONDS, tag_keys=("target",)
        )
        self._wait_seconds = Histogram(
            "argus_call_wait_seconds", "Seconds that calls wait for a place.", boundaries=SECONDS, tag_keys=("target",)
        )
        self._counted: Counts[tuple[Counter, tuple[tuple[str, str], ...]]] = Counts()
        self._spent: dict[str, float] = {}
        self._left: dict[tuple[str, Counted], tuple[float, float]] = {}
        self._states: dict[str, BreakerState] = {}
        self._places: dict[str, tuple[int, int, int]] = {}
        self._flush_due = False

    def cache(self, target: str, result: CacheResult) -> None:
        """See `Recorder`."""
        self._count(self._cache, target=target, result=result)

    def joined(self, target: str) -> None:
        """See `Recorder`."""
        self._count(self._joined, target=target)

    def budget_left(self, tenant: str, usd: float, of_usd: float, counted: Counted) -> None:
        """See `Recorder`."""
        self._left[tenant, counted] = (usd, of_usd)
        self._flush_soon()

    def spent(self, target: str, usd: float) -> None:
        """See `Recorder`."""
        self._spent[target] = self._spent.get(target, 0.0) + usd
        self._flush_soon()

    def refused(self, target: str, stage: Stage) -> None:
        """See `Recorder`."""
        self._count(self._refused, target=target, stage=stage)

    def concurrency(self, target: str, limit: int, in_flight: int, waiting: int) -> None:
        """See `Recorder`."""
        self._places[target] = (limit, in_flight, waiting)
        self._flush_soon()

    def waited(self, target: str, seconds: float) -> None:
        """See `Recorder`."""
        self._wait_seconds.observe(seconds, tags={"target": target})

    def breaker(self, target: str, state: BreakerState) -> None:
        """See `Recorder`."""
        self._states[target] = state
        self._flush_soon()

    def hedged(self, target: str, won: bool) -> None:
        """See `Recorder`."""
        self._count(self._hedges, target=target, won="yes" if won else "no")

    def retried(self, target: str) -> None:
        """See `Recorder`."""
        self._count(self._retries, target=target)

    def attempted(self, target: str, outcome: str, seconds: float) -> None:
        """See `Recorder`."""
        self._count(self._attempts, target=target, outcome=outcome)
        self._attempt_seconds.observe(seconds, tags={"target": target})

    def shared_store(self, answered: bool) -> None:
        """See `Recorder`."""
        self._count(self._shared_store, answered="yes" if answered else "no")

    def flush(self) -> None:
        """Hands over what has been gathered."""
        self._flush_due = False
        counted, self._counted = self._counted, Counts()
        for (counter, labels), count in counted.items():
            counter.inc(count, tags=dict(labels))
        spent, self._spent = self._spent, {}
        for target, usd in spent.items():
            if usd > 0:
                self._spent_usd.inc(usd, tags={"target": target})
        left, self._left = self._left, {}
        for (tenant, counted_by), (usd, of_usd) in left.items():
            tags = {"tenant": tenant, "counted": counted_by}
            self._budget_left.set(usd, tags=tags)
            self._budget.set(of_usd, tags=tags)
        states, self._states = self._states, {}
        for target, state in states.items():
            self._breaker.set(_STATES[state], tags={"target": target})
        places, self._places = self._places, {}
        for target, numbers in places.items():
            for gauge, number in zip((self._limit, self._in_flight, self._waiting), numbers, strict=True):
                gauge.set(number, tags={"target": target})

    def _count(self, counter: Counter, **tags: str) -> None:
        self._counted[counter, tuple(tags.items())] += 1
        self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            asyncio.get_running_loop().call_later(_FLUSH_S, self.flush)
