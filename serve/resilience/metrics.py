"""Metrics of the guard: Ray's, exported with the prefix `ray_`.

Counts are gathered and handed over a few times a second, as those of `serve.metrics`: each call into Ray costs what a
request cannot spare. Labels are names of the cluster file, names of keys, and words of this module.
"""

from __future__ import annotations

import asyncio
from collections import Counter as Counts

from ray.util.metrics import Counter, Gauge, Histogram

from deployments.replica import SECONDS
from serve.resilience.recorder import BreakerState, CacheResult, Stage

_FLUSH_S = 0.25
_STATES: dict[BreakerState, int] = {"closed": 0, "half_open": 1, "open": 2}
_COUNTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "argus_cache_results_total": (
        "Calls by what the cache had: hit, shared_hit (Redis), negative_hit (a failure), miss; store_failed.",
        ("target", "result"),
    ),
    "argus_single_flight_joined_total": ("Calls that shared one which was in progress.", ("target",)),
    "argus_calls_refused_total": ("Calls refused before an attempt, by the stage that did.", ("target", "stage")),
    "argus_call_attempts_total": ("Attempts by outcome: ok, a failure class, cancelled.", ("target", "outcome")),
    "argus_call_retries_total": ("Attempts that followed a failed one.", ("target",)),
    "argus_call_hedges_total": ("Second attempts beside a late one, by whether they won.", ("target", "won")),
    "argus_provider_spent_usd_total": ("Money for providers, in US dollars.", ("target",)),
    "argus_shared_store_questions_total": ("Questions to Redis, by whether it answered in time.", ("answered",)),
}
_PLACES = ("argus_call_concurrency_limit", "argus_calls_in_flight", "argus_calls_waiting")
_GAUGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "argus_budget_left_usd": ("Money left for today (UTC), in US dollars; `*` for all tenants.", ("tenant",)),
    "argus_call_concurrency_limit": ("Calls that a router replica may have in progress.", ("target",)),
    "argus_calls_in_flight": ("Calls that a router replica has in progress.", ("target",)),
    "argus_calls_waiting": ("Calls that wait for a place in a router replica.", ("target",)),
    "argus_breaker_state": ("0 closed, 1 half open, 2 open.", ("target",)),
}


class GuardMetrics:
    """A `serve.resilience.recorder.Recorder`; lives on the router's event loop."""

    def __init__(self) -> None:
        self._counters = {name: Counter(name, text, tag_keys=tags) for name, (text, tags) in _COUNTERS.items()}
        self._gauges = {name: Gauge(name, text, tag_keys=tags) for name, (text, tags) in _GAUGES.items()}
        self._attempt_seconds = Histogram(
            "argus_call_attempt_seconds", "Seconds that attempts last.", boundaries=SECONDS, tag_keys=("target",)
        )
        self._wait_seconds = Histogram(
            "argus_call_wait_seconds", "Seconds that calls wait for a place.", boundaries=SECONDS, tag_keys=("target",)
        )
        self._counted: Counts[tuple[str, tuple[str, ...]]] = Counts()
        self._spent: dict[str, float] = {}
        self._set: dict[tuple[str, str], float] = {}
        self._places: dict[str, tuple[int, int, int]] = {}
        self._flush_due = False

    def cache(self, target: str, result: CacheResult) -> None:
        """See `Recorder`."""
        self._count("argus_cache_results_total", target, result)

    def joined(self, target: str) -> None:
        """See `Recorder`."""
        self._count("argus_single_flight_joined_total", target)

    def budget_left(self, tenant: str, usd: float) -> None:
        """See `Recorder`."""
        self._level("argus_budget_left_usd", tenant, usd)

    def spent(self, target: str, usd: float) -> None:
        """See `Recorder`."""
        self._spent[target] = self._spent.get(target, 0.0) + usd
        self._flush_soon()

    def refused(self, target: str, stage: Stage) -> None:
        """See `Recorder`."""
        self._count("argus_calls_refused_total", target, stage)

    def concurrency(self, target: str, limit: int, in_flight: int, waiting: int) -> None:
        """See `Recorder`."""
        self._places[target] = (limit, in_flight, waiting)
        self._flush_soon()

    def waited(self, target: str, seconds: float) -> None:
        """See `Recorder`."""
        self._wait_seconds.observe(seconds, tags={"target": target})

    def breaker(self, target: str, state: BreakerState) -> None:
        """See `Recorder`."""
        self._level("argus_breaker_state", target, _STATES[state])

    def hedged(self, target: str, won: bool) -> None:
        """See `Recorder`."""
        self._count("argus_call_hedges_total", target, "yes" if won else "no")

    def retried(self, target: str) -> None:
        """See `Recorder`."""
        self._count("argus_call_retries_total", target)

    def attempted(self, target: str, outcome: str, seconds: float) -> None:
        """See `Recorder`."""
        self._count("argus_call_attempts_total", target, outcome)
        self._attempt_seconds.observe(seconds, tags={"target": target})

    def shared_store(self, answered: bool) -> None:
        """See `Recorder`."""
        self._count("argus_shared_store_questions_total", "yes" if answered else "no")

    def flush(self) -> None:
        """Hands over what has been gathered."""
        self._flush_due = False
        counted, self._counted = self._counted, Counts()
        for (name, values), count in counted.items():
            self._counters[name].inc(count, tags=dict(zip(_COUNTERS[name][1], values, strict=True)))
        spent, self._spent = self._spent, {}
        for target, usd in spent.items():
            if usd > 0:
                self._counters["argus_provider_spent_usd_total"].inc(usd, tags={"target": target})
        places, self._places = self._places, {}
        for target, numbers in places.items():
            for name, number in zip(_PLACES, numbers, strict=True):
                self._gauges[name].set(number, tags={"target": target})
        levels, self._set = self._set, {}
        for (name, label), value in levels.items():
            self._gauges[name].set(value, tags={_GAUGES[name][1][0]: label})

    def _count(self, name: str, *values: str) -> None:
        self._counted[name, values] += 1
        self._flush_soon()

    def _level(self, name: str, label: str, value: float) -> None:
        self._set[name, label] = value
        self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            asyncio.get_running_loop().call_later(_FLUSH_S, self.flush)
