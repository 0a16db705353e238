"""Metrics and logs of a real cluster, read as Prometheus and a log shipper would."""

from __future__ import annotations

import json
import time
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.cluster import Cluster

pytestmark = pytest.mark.cluster


def scrape(cluster: Cluster) -> dict[str, list[tuple[dict[str, str], float]]]:
    text = httpx.get(cluster.metrics, trust_env=False, timeout=30).text
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def total(samples: list[tuple[dict[str, str], float]], **labels: str) -> float:
    return sum(value for found, value in samples if all(found.get(k) == v for k, v in labels.items()))


def test_what_was_asked_is_counted(cluster: Cluster, scene_png: bytes) -> None:
    wanted = {"protocol": "http", "route": "/v1/classify", "client": "tester"}
    before = scrape(cluster).get("ray_argus_requests_total", [])
    with cluster.client() as client:
        for _ in range(5):
            client.post("/v1/classify", files={"image": scene_png}, data={"labels": "a,b"})
        client.post("/v1/classify", files={"image": b"text"}, data={"labels": "a,b"})
        client.get("/v1/no/such/route")
    for _ in range(60):  # Ray's agent exports every few seconds
        now = scrape(cluster)
        counted = now.get("ray_argus_requests_total", [])
        if total(counted, **wanted, outcome="ok") >= total(before, **wanted, outcome="ok") + 5:
            break
        time.sleep(0.5)
    assert total(counted, **wanted, outcome="ok") == total(before, **wanted, outcome="ok") + 5
    assert total(counted, **wanted, outcome="not_an_image") == total(before, **wanted, outcome="not_an_image") + 1
    assert total(counted, route="unmatched") > 0, "unknown paths share one series"
    for name in ("queue_wait_seconds", "forward_seconds", "preprocess_seconds", "batch_items"):
        assert total(now[f"ray_argus_{name}_count"], model="clip") > 0, name
    assert {labels["route"] for labels, _ in counted}.isdisjoint({"/v1/no/such/route"})


def test_each_request_is_one_json_line_with_its_id(cluster: Cluster, scene_png: bytes) -> None:
    with cluster.client() as client:
        sent = {"image": scene_png}
        client.post("/v1/classify", files=sent, data={"labels": "a,b"}, headers={"X-Request-ID": "find-me-1"})
    folder = Path(cluster.environment["ARGUS_RUN_DIR"]) / cluster.name / "ray" / "session_latest" / "logs" / "serve"
    for _ in range(40):
        lines = [json.loads(line) for file in folder.glob("requests_*router*") for line in file.open()]
        mine = [line for line in lines if line.get("request_id") == "find-me-1"]
        if mine:
            break
        time.sleep(0.25)
    assert len(mine) == 1
    record = mine[0]
    assert (record["operation"], record["client"], record["outcome"], record["status"]) == (
        "/v1/classify",
        "tester",
        "ok",
        200,
    )
    assert record["seconds"] > 0
