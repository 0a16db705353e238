"""What the guard tells reaches Ray's metrics: once, added up, and with the labels that they were declared with."""

from __future__ import annotations

from typing import Any

import pytest

from serve.resilience import metrics
from serve.resilience.jobs import Job
from serve.resilience.metrics import GuardMetrics
from tests.unit.resilience_fakes import COST, Script, context, guard


class Metric:
    """Stands in for a metric of Ray's."""

    made: dict[str, Metric]

    def __init__(self, name: str, description: str, **options: Any) -> None:
        assert name not in self.made, "declared twice"
        assert description.endswith(".")
        self.made[name] = self
        self._labels = set(options["tag_keys"])
        self.values: dict[tuple[str, ...], float] = {}

    def inc(self, value: float, tags: dict[str, str]) -> None:
        assert value > 0
        self._take(value, tags, add=True)

    def set(self, value: float, tags: dict[str, str]) -> None:
        self._take(value, tags, add=False)

    def observe(self, value: float, tags: dict[str, str]) -> None:
        self._take(1, tags, add=True)

    def _take(self, value: float, tags: dict[str, str], *, add: bool) -> None:
        assert set(tags) == self._labels
        key = tuple(tags.values())
        self.values[key] = value + (self.values.get(key, 0) if add else 0)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> dict[str, Metric]:
    Metric.made = {}
    for kind in ("Counter", "Gauge", "Histogram"):
        monkeypatch.setattr(metrics, kind, Metric)
    return Metric.made


async def test_calls_show_in_the_metrics(made: dict[str, Metric]) -> None:
    recorder = GuardMetrics()
    calls = guard(recorder, resilience={"usd_per_day": 1.0})
    for _ in range(2):
        await calls.run(Job("theirs", Script(usage=COST), COST), context())
    recorder.flush()
    assert made["argus_call_attempts_total"].values == {("theirs", "ok"): 2}
    assert made["argus_call_attempt_seconds"].values == {("theirs",): 2}
    assert made["argus_provider_spent_usd_total"].values == {("theirs",): pytest.approx(0.8)}
    assert made["argus_budget_left_usd"].values == {("*", "replica"): pytest.approx(0.2)}
    assert made["argus_budget_usd"].values == {("*", "replica"): pytest.approx(1.0)}
    assert made["argus_calls_in_flight"].values == {("theirs",): 0}
    assert made["argus_call_concurrency_limit"].values == {("theirs",): 20}
    recorder.flush()
    assert made["argus_call_attempts_total"].values == {("theirs", "ok"): 2}


async def test_every_event_has_a_metric(made: dict[str, Metric]) -> None:
    recorder = GuardMetrics()
    recorder.cache("m", "hit")
    recorder.joined("m")
    recorder.refused("m", "breaker")
    recorder.breaker("m", "open")
    recorder.hedged("m", True)
    recorder.hedged("m", False)
    recorder.retried("m")
    recorder.waited("m", 0.1)
    recorder.shared_store(False)
    recorder.flush()
    assert made["argus_cache_results_total"].values == {("m", "hit"): 1}
    assert made["argus_single_flight_joined_total"].values == {("m",): 1}
    assert made["argus_calls_refused_total"].values == {("m", "breaker"): 1}
    assert made["argus_breaker_state"].values == {("m",): 2}
    assert made["argus_call_hedges_total"].values == {("m", "yes"): 1, ("m", "no"): 1}
    assert made["argus_call_retries_total"].values == {("m",): 1}
    assert made["argus_call_wait_seconds"].values == {("m",): 1}
    assert made["argus_shared_store_questions_total"].values == {("no",): 1}
