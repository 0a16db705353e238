"""What objectives count: which requests each is about, which are bad, and counters that are there from the start."""

from __future__ import annotations

from typing import Any

import pytest

from serve import metrics, objectives
from serve.cascade import metrics as cascade_metrics
from serve.cascade.metrics import CascadeMetrics
from serve.cascade.recorder import Ran
from serve.config.objectives import Objective
from serve.errors import Fault
from serve.metrics import RequestRecord, RouterMetrics
from serve.objectives import ObjectiveMetrics
from serve.request_log import RequestLog

SLOS = {
    name: Objective.model_validate(one)
    for name, one in {
        "service": {"kind": "availability", "target": 0.99},
        "vqa": {"kind": "availability", "route": "/v1/vqa", "target": 0.99},
        "fast": {"kind": "latency", "route": "/v1/classify", "under_s": 0.2, "target": 0.9},
        "answers": {"kind": "availability", "cascade": "moderation", "target": 0.9},
        "soon": {"kind": "latency", "cascade": "moderation", "under_s": 2, "target": 0.9},
        "first": {"kind": "escalation", "cascade": "moderation", "target": 0.8},
        "right": {"kind": "agreement", "cascade": "moderation", "target": 0.95},
    }.items()
}


class Metric:
    """Stands in for Ray's counters, gauges and histograms."""

    made: dict[str, Metric]

    def __init__(self, name: str, description: str, **options: Any) -> None:
        self.made[name] = self
        self.values: dict[str, float] = {}

    def begin(self, tags: dict[str, str]) -> None:
        self.inc(0, tags)

    def inc(self, value: float, tags: dict[str, str]) -> None:
        """By objective; other metrics have no label `slo`."""
        slo = tags.get("slo", "")
        self.values[slo] = self.values.get(slo, 0) + value

    def set(self, value: float, tags: dict[str, str] | None = None) -> None: ...

    observe = set


class Counted:
    """The router's recorders, and what the objectives' counters have by now."""

    def __init__(self) -> None:
        self._objectives = ObjectiveMetrics(SLOS)
        self._router = RouterMetrics(RequestLog(), "shop", "1.2.3", self._objectives)
        self._cascades = CascadeMetrics(self._objectives)

    def ask(self, route: str, fault: Fault = "none", seconds: float = 0.1, times: int = 1) -> None:
        for _ in range(times):
            self._router.record(RequestRecord("id", "http", route, "a", "x", 200, seconds, fault=fault))

    def run(
        self, cascade: str = "moderation", fault: Fault = "none", seconds: float = 0.1, *, escalated: bool = False
    ) -> None:
        self._cascades.ran(Ran(cascade, "ok", "none", escalated, seconds, (), fault))

    def check(self, result: Any, cascade: str = "moderation") -> None:
        self._cascades.shadowed(cascade, "screen", result)

    def now(self) -> dict[str, tuple[float, float]]:
        """Bad requests and all, of objectives that have any."""
        self._objectives.flush()
        errors, events = (Metric.made[f"argus_slo_{what}_total"].values for what in ("errors", "events"))
        assert set(errors) == set(events) == set(SLOS)
        return {slo: (errors[slo], events[slo]) for slo in SLOS if events[slo]}


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    Metric.made = {}
    for module in (metrics, cascade_metrics, objectives):
        for kind in ("Counter", "Gauge", "Histogram"):
            monkeypatch.setattr(module, kind, Metric, raising=False)
    return Counted()


def test_every_objective_has_its_counters_before_the_first_request(counted: Counted) -> None:
    assert counted.now() == {}
    assert Metric.made["argus_slo_errors_total"].values == dict.fromkeys(SLOS, 0)


async def test_a_service_fails_through_its_own_fault_alone(counted: Counted) -> None:
    for fault in ("none", "client", "gone", "server"):
        counted.ask("/v1/vqa", fault)  # type: ignore[arg-type]
    counted.ask("/v1/models", "server", times=2)
    assert counted.now() == {"service": (3, 6), "vqa": (1, 4)}


@pytest.mark.parametrize("route", ["/v1/healthz", "/docs", "ServerReady", "unmatched"])
async def test_probes_and_unknown_paths_are_nobodys_requests(counted: Counted, route: str) -> None:
    counted.ask(route, "server")
    assert counted.now() == {}


async def test_answers_are_late_beyond_the_promised_time(counted: Counted) -> None:
    for seconds in (0.1, 0.2, 0.21):
        counted.ask("/v1/classify", seconds=seconds)
    counted.ask("/v1/classify", "server", seconds=9)
    counted.ask("/v1/classify", "client", seconds=9)
    assert counted.now()["fast"] == (1, 3), "a failure is no slow answer"


async def test_who_leaves_a_slow_service_counts_against_its_latency(counted: Counted) -> None:
    counted.ask("/v1/classify", times=70)
    counted.ask("/v1/classify", seconds=0.3, times=30)
    counted.ask("/v1/classify", "gone", seconds=0.1, times=40)
    counted.ask("/v1/classify", "gone", seconds=0.3, times=10)
    assert counted.now()["fast"] == (40, 110), "ten had waited too long; forty saw neither a fast answer nor a slow one"


async def test_a_service_that_hangs_until_every_client_leaves_is_late(counted: Counted) -> None:
    counted.ask("/v1/classify", "gone", seconds=0.3, times=50)
    assert counted.now()["fast"] == (50, 50)


async def test_cascades_are_counted_whoever_asks_them(counted: Counted) -> None:
    counted.run()
    counted.run(escalated=True, seconds=3)
    counted.run(fault="server")
    counted.run(fault="client")
    counted.run("another", "server", escalated=True)
    assert counted.now() == {"answers": (1, 4), "soon": (1, 2), "first": (1, 4)}


async def test_only_shadow_checks_that_say_something_count(counted: Counted) -> None:
    for result in ("agreed", "agreed", "disagreed", "failed", "dropped"):
        counted.check(result)
    counted.check("disagreed", "another")
    assert counted.now() == {"right": (1, 3)}


async def test_what_was_handed_over_is_not_counted_again(counted: Counted) -> None:
    counted.ask("/v1/vqa", "server")
    assert counted.now()["vqa"] == (1, 1)
    counted.ask("/v1/vqa")
    assert counted.now()["vqa"] == (1, 2)
