"""`argus top`: figures of a cluster out of two scrapes, and how they are printed."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from serve.cli import app
from serve.cli.top import screen
from serve.errors import Unavailable
from serve.live import WANTED, Live, live
from serve.scrape import Delta, Scrape

START = "\n"
END = """
ray_argus_requests_total{protocol="http",route="/v1/classify",client="a",outcome="ok",fault="none"} 80
ray_argus_requests_total{protocol="http",route="/v1/classify",client="b",outcome="unavailable",fault="server"} 20
ray_argus_requests_total{protocol="grpc",route="ModelInfer",client="a",outcome="not_an_image",fault="client"} 100
ray_argus_request_seconds_bucket{protocol="http",route="/v1/classify",le="0.1"} 50
ray_argus_request_seconds_bucket{protocol="http",route="/v1/classify",le="+Inf"} 100
ray_argus_requests_in_flight{WorkerId="1"} 3
ray_argus_requests_in_flight{WorkerId="2"} 4
ray_argus_shed_requests_total{priority="low",reason="places"} 5
ray_argus_cascade_requests_total{cascade="moderation",result="ok",outcome="allow"} 30
ray_argus_cascade_requests_total{cascade="moderation",result="degraded",outcome="review"} 10
ray_argus_cascade_escalations_total{cascade="moderation"} 20
ray_argus_cascade_saved_usd_total{cascade="moderation"} 0.01
ray_argus_cascade_gear{cascade="moderation"} 1
ray_argus_cascade_uncalibrated{cascade="moderation"} 1
ray_argus_cascade_drift_alarm{cascade="moderation",step="screen"} 1
ray_argus_queue_wait_seconds_count{model="clip"} 60
ray_argus_batch_items_count{model="clip"} 20
ray_argus_gpu_memory_used_bytes{model="clip"} 3e9
ray_argus_gpu_memory_budget_bytes{model="clip"} 4e9
ray_serve_deployment_replica_healthy{deployment="clip",replica="x"} 1
ray_serve_autoscaling_target_replicas{deployment="clip"} 2
ray_serve_replica_processing_queries{deployment="clip",replica="x"} 5
ray_argus_call_attempts_total{target="hosted",outcome="ok"} 6
ray_argus_call_attempts_total{target="hosted",outcome="cancelled"} 2
ray_argus_call_attempts_total{target="hosted",outcome="unavailable"} 2
ray_argus_breaker_state{target="hosted",WorkerId="1"} 0
ray_argus_breaker_state{target="hosted",WorkerId="2"} 2
ray_argus_breaker_state{target="hosted",WorkerId="3"} 3
ray_argus_call_concurrency_limit{target="hosted",WorkerId="1"} 20
ray_argus_call_concurrency_limit{target="hosted",WorkerId="2"} 20
ray_argus_calls_in_flight{target="hosted",WorkerId="1"} 7
ray_argus_cache_results_total{target="hosted",result="miss"} 10
ray_argus_cache_results_total{target="hosted",result="hit"} 4
ray_argus_cache_results_total{target="hosted",result="shared_hit"} 6
ray_argus_cache_results_total{target="hosted",result="store_failed"} 10
ray_argus_provider_spent_usd_total{target="hosted"} 0.02
ray_argus_budget_left_usd{tenant="*",counted="shared",WorkerId="1"} 2.5
ray_argus_budget_left_usd{tenant="*",counted="shared",WorkerId="2"} 2.4
ray_argus_budget_left_usd{tenant="a",counted="replica",WorkerId="1"} 0.5
ray_argus_budget_left_usd{tenant="a",counted="replica",WorkerId="2"} 0.0
ray_argus_jobs{state="queued"} 3
ray_argus_jobs{state="failed"} 0
"""


@pytest.fixture
def found() -> Live:
    """Ten seconds in which all of it happened."""
    return live(Delta(Scrape.parse(START, 0.0, WANTED), Scrape.parse(END, 10.0, WANTED)))


def test_requests(found: Live) -> None:
    assert (found.requests_per_s, found.failed, found.in_flight, found.shed_per_s) == (20.0, 0.1, 7, 0.5)
    routes = {one.route: one for one in found.routes}
    classify, infer = routes["/v1/classify"], routes["ModelInfer"]
    assert (infer.protocol, infer.per_s, infer.errors_per_s, infer.p50_s) == ("grpc", 10.0, 10.0, None)
    assert (classify.per_s, classify.errors_per_s, classify.p50_s) == (10.0, 2.0, pytest.approx(0.1))


def test_cascades(found: Live) -> None:
    [one] = found.cascades
    assert (one.per_s, one.escalated, one.degraded, one.gear) == (4.0, 0.5, 0.25, 1)
    assert one.calibrated is False and one.drifting
    assert one.saved_usd_per_h == pytest.approx(3.6)


def test_models(found: Live) -> None:
    [one] = found.models
    assert (one.name, one.items_per_s, one.batch) == ("clip", 6.0, 3.0)
    assert (one.replicas, one.wanted, one.in_flight, one.gpu_memory) == (1, 2, 5, 0.75)


def test_targets(found: Live) -> None:
    """A cancelled attempt is none that failed; the worst breaker counts; limits add up."""
    [one] = found.targets
    assert (one.attempts_per_s, one.failed, one.breaker) == (1.0, pytest.approx(0.2), "open")
    assert (one.limit, one.in_flight, one.cached, one.usd_per_h) == (40, 7, 0.5, pytest.approx(7.2))


@pytest.mark.parametrize(("states", "shown"), [((0, 3), "resting"), ((3, 1), "half open"), ((2, 3), "open")])
def test_a_breaker_that_rests_is_better_than_an_open_one(states: tuple[int, int], shown: str) -> None:
    text = "".join(f'ray_argus_breaker_state{{target="x",WorkerId="{i}"}} {one}\n' for i, one in enumerate(states))
    assert live(Delta(None, Scrape.parse(text, 0.0, WANTED))).targets[0].breaker == shown


def test_of_a_shared_budget_the_smallest_figure_counts_and_parts_are_added(found: Live) -> None:
    assert found.budget_left_usd == {"*": 2.4, "a": 0.5}
    assert found.jobs == {"failed": 0, "queued": 3}


def test_an_idle_cluster_has_no_shares() -> None:
    scrape = Scrape.parse(END, 0.0, WANTED)
    idle = live(Delta(scrape, Scrape(10.0, scrape.samples)))
    assert (idle.requests_per_s, idle.failed, idle.routes) == (0.0, None, ())
    assert idle.cascades[0].escalated is None and idle.targets[0].failed is None
    assert idle.models[0].batch is None


def printed(found: Live) -> str:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(screen(found, "demo"))
    return captured.get()


def test_all_of_it_is_printed(found: Live) -> None:
    text = printed(found)
    for part in ("demo", "10.0% failed", "7 in progress", "2.40 USD", "3 queued", "http /v1/classify", "drift"):
        assert part in text, part
    assert "1 of 2" in text and "7 of 40" in text and "open" in text and "7.200" in text
    json.dumps(asdict(found))


def test_the_first_look_and_an_empty_cluster_print() -> None:
    first = printed(live(Delta(None, Scrape.parse(END, 0.0, WANTED))))
    assert "first look" in first and "1 of 2" in first
    assert "Cascades" not in printed(live(Delta(None, Scrape.parse("", 0.0, WANTED))))


def test_without_a_cluster_it_says_how_to_start_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARGUS_RUN_DIR", str(tmp_path))
    done = CliRunner().invoke(app, ["top", "--name", "nobody", "--once"])
    assert isinstance(done.exception, Unavailable) and "argus up" in done.exception.message
