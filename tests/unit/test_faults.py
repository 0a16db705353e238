"""Whose fault a failure is, from the error to the series that objectives count."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from serve import errors, metrics, objectives
from serve.errors import (
    ArgusError,
    BudgetExceeded,
    DeadlineExceeded,
    InvalidMedia,
    ModelFailed,
    Overloaded,
    RateLimited,
    Unavailable,
)
from serve.metrics import RequestRecord, RouterMetrics
from serve.objectives import ObjectiveMetrics
from serve.providers.faults import error_of
from serve.request_log import RequestLog
from tests.unit.fakes import Site, png

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ArgusError)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_status_and_the_fault_of_an_error_agree(kind: type[ArgusError]) -> None:
    """5xx is ours, and so are full queues (429); a viewer that falls silent lets its own time pass."""
    if kind is errors.ViewerSilent:
        assert kind("").fault == "client"
    elif kind is errors.Cancelled:
        assert kind("").fault == "gone", "who leaves does not say why"
    else:
        assert kind("").fault == ("server" if kind.status >= 500 or kind is Overloaded else "client")


@pytest.mark.parametrize(
    ("status", "fault"), [(401, "server"), (404, "server"), (429, "server"), (500, "server"), (400, "client")]
)
def test_what_a_provider_holds_against_us_is_our_fault(status: int, fault: str) -> None:
    assert error_of("gpt", status, "No.").fault == fault


async def classified(client: httpx.AsyncClient, **options: Any) -> None:
    await client.post("/v1/classify", files={"image": png()}, data={"labels": "a,b"}, **options)


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (Unavailable("It is away."), "server"),
        (Overloaded("It is full."), "server"),
        (DeadlineExceeded("Too late."), "server"),
        (ModelFailed("It broke."), "server"),
        (InvalidMedia("No picture."), "client"),
        (RateLimited("Too many."), "client"),
        (BudgetExceeded("Spent."), "client"),
        (BudgetExceeded("All of it is.", code="service_budget_exceeded"), "server"),
        (RateLimited("Too many.", code="provider_rate_limited"), "server"),
        (ZeroDivisionError("A mistake of ours."), "server"),
    ],
)
async def test_the_edge_records_whose_fault_it_was(
    client: httpx.AsyncClient, site: Site, error: Exception, fault: str
) -> None:
    site.model.raises = error
    await classified(client)
    assert site.recorder.requests[-1].fault == fault


async def test_an_answer_is_nobodys_fault_and_an_unknown_path_the_clients(
    client: httpx.AsyncClient, site: Site
) -> None:
    await classified(client)
    await client.get("/nowhere")
    await client.get("/v1/classify")
    assert [record.fault for record in site.recorder.requests] == ["none", "client", "client"]


class Metric:
    """Stands in for one of Ray's."""

    made: dict[str, Metric]

    def __init__(self, name: str, description: str, **options: Any) -> None:
        self.made[name] = self
        self.labels = set(options.get("tag_keys", ()))
        self.boundaries = options.get("boundaries")
        self.values: list[tuple[float, dict[str, str]]] = []

    def set(self, value: float, tags: dict[str, str] | None = None) -> None:
        assert set(tags or {}) == self.labels
        self.values.append((value, tags or {}))

    inc = observe = set


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> dict[str, Metric]:
    Metric.made = {}
    for kind in ("Counter", "Gauge", "Histogram"):
        monkeypatch.setattr(metrics, kind, Metric)
    monkeypatch.setattr(objectives, "Counter", Metric)
    return Metric.made


async def test_the_routers_series(made: dict[str, Metric]) -> None:
    router = RouterMetrics(RequestLog(), "shop", "1.2.3", ObjectiveMetrics({}))
    for seconds, outcome, fault in ((0.02, "ok", "none"), (0.04, "ok", "none"), (3.0, "unavailable", "server")):
        router.record(RequestRecord("id", "http", "/v1/classify", "a", outcome, 200, seconds, fault=fault))  # type: ignore[arg-type]
    router.in_flight(3)
    router.viewing(2)
    router.flush()
    common = {"protocol": "http", "route": "/v1/classify"}
    assert made["argus_requests_total"].values == [
        (2, common | {"client": "a", "outcome": "ok", "fault": "none"}),
        (1, common | {"client": "a", "outcome": "unavailable", "fault": "server"}),
    ]
    assert made["argus_request_seconds"].values == [
        (0.02, common | {"fault": "none"}),
        (0.04, common | {"fault": "none"}),
        (3.0, common | {"fault": "server"}),
    ]
    assert 0.03 in made["argus_request_seconds"].boundaries
    assert made["argus_requests_in_flight"].values == [(3, {})]
    assert made["argus_scene_viewers"].values == [(2, {})]
    assert made["argus_build_info"].values == [(1, {"cluster": "shop", "version": "1.2.3"})]
