"""Metrics and logs of a real cluster, read as Prometheus and a log shipper would."""

from __future__ import annotations

import contextlib
import json
import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import tritonclient.grpc as triton_grpc
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.utils import InferenceServerException

from grafana.inventory import by_series
from tests.e2e.cluster import COUNTED_KEY, KEY, Cluster
from tests.support.waiting import until

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
    # What other tests asked as "tester" is exported late, in the middle of this one.
    wanted = {"protocol": "http", "route": "/v1/classify", "client": "counted"}
    with cluster.client() as client:
        client.headers["X-API-Key"] = COUNTED_KEY
        for _ in range(5):
            client.post("/v1/classify", files={"image": scene_png}, data={"labels": "a,b"})
        client.post("/v1/classify", files={"image": b"text"}, data={"labels": "a,b"})
        client.get("/v1/no/such/route")
    # Ray's agent exports every few seconds, on a busy machine late.
    until(lambda: total(scrape(cluster).get("ray_argus_requests_total", []), client="counted") >= 7, every_s=0.5)
    now = scrape(cluster)
    counted = now.get("ray_argus_requests_total", [])
    assert total(counted, **wanted, outcome="ok") == 5
    assert total(counted, **wanted, outcome="not_an_image") == 1
    assert total(counted, route="unmatched") > 0, "unknown paths share one series"
    for name in ("queue_wait_seconds", "forward_seconds", "preprocess_seconds", "batch_items"):
        assert total(now[f"ray_argus_{name}_count"], model="clip") > 0, name
    assert {labels["route"] for labels, _ in counted}.isdisjoint({"/v1/no/such/route"})


def own_series(cluster: Cluster) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
    """Every series of ours by the labels that we give it."""
    declared = by_series()
    return {
        (name, tuple(sorted((key, value) for key, value in labels.items() if key in declared[name].labels)))
        for name, samples in scrape(cluster).items()
        if name in declared
        for labels, _ in samples
    }


def ask_every_kind(cluster: Cluster, name: str) -> int:
    """A client's word in every place where it could become a label; returns how many requests that were."""
    picture = {"image": b"no picture"}
    with cluster.client() as client:
        client.put(f"/v1/indexes/{name}", json={"model": "clip"}).raise_for_status()
        client.post(f"/v1/indexes/{name}/search", json={"text": name, "k": 1})
        client.delete(f"/v1/indexes/{name}").raise_for_status()
        for path in (f"/{name}", f"/v1/models/{name}", f"/v1/jobs/{name}", f"/v1/sessions/{name}", f"/viewer/{name}"):
            client.get(path)
        client.post(f"/v1/scenes/{name}/render", json={"camera": {"orbit": {"azimuth_deg": 0}}})
        client.post(f"/v1/cascades/{name}", files=picture)
        client.post("/v1/cascades/moderation", files=picture, headers={"X-Request-ID": name})
        client.post("/v1/classify", files=picture, data={"labels": name, "model": name})
        client.post("/v1/classify", content=name.encode(), headers={"Content-Type": f"text/{name}"})
        client.post("/v1/chat/completions", json={"model": name, "messages": [{"role": "user", "content": name}]})
        client.post(f"/v2/models/{name}/infer", json={"inputs": []})
        client.get("/v1/models", headers={"X-API-Key": name})
        client.get("/v1/models", headers={"X-Argus-Priority": name, "X-Argus-Timeout-Ms": name})
    with triton_grpc.InferenceServerClient(cluster.grpc) as grpc:
        for ask in (grpc.is_model_ready, grpc.get_model_metadata):
            with contextlib.suppress(InferenceServerException):
                ask(name, headers={"x-api-key": KEY})
    return 19


def test_no_word_of_a_client_makes_a_series(cluster: Cluster) -> None:
    mark = "zq" + secrets.token_hex(3)
    asked = requests_counted(cluster)
    asked += sum(ask_every_kind(cluster, f"{mark}first{number}") for number in range(2))
    wait_until_counted(cluster, asked)
    before = own_series(cluster)
    with ThreadPoolExecutor(4) as pool:
        sent = sum(pool.map(lambda number: ask_every_kind(cluster, f"{mark}x{number}"), range(110)))
    assert sent > 2000
    wait_until_counted(cluster, asked + sent)
    after = own_series(cluster)
    assert not [series for series in after if mark in str(series)]
    # A request that is shed, or slower than its deadline, for the first time makes series of its route: a few.
    assert len(after - before) < 20, after - before


def lines_of(folder: Path, pattern: str) -> list[dict[str, Any]]:
    """The JSON lines of log files; one that is being written is left out."""
    lines = [line for file in folder.glob(pattern) for line in file.read_text(encoding="utf-8").splitlines(True)]
    return [json.loads(line) for line in lines if line.endswith("\n")]


def requests_counted(cluster: Cluster) -> float:
    return total(scrape(cluster).get("ray_argus_requests_total", []))


def wait_until_counted(cluster: Cluster, requests: float) -> None:
    # Ray's agent exports every few seconds, on a busy machine late.
    counted = until(lambda: requests_counted(cluster) >= requests, every_s=0.5)
    assert counted, f"{requests_counted(cluster):.0f} of {requests:.0f} requests were counted"


def test_every_series_that_is_exported_is_declared(cluster: Cluster) -> None:
    # Ray's agent forgets what it was not told for 20 s, and remembers it with the next word.
    assert until(lambda: "ray_argus_build_info" in scrape(cluster)), "what is set once at the start is still exported"
    found = {name for name in scrape(cluster) if name.startswith("ray_argus_")}
    assert found and found <= set(by_series())
    for name, samples in scrape(cluster).items():
        if name in by_series():
            assert all(set(by_series()[name].labels) <= set(labels) for labels, _ in samples), name


def test_each_request_is_one_json_line_with_its_id(cluster: Cluster, scene_png: bytes) -> None:
    with cluster.client() as client:
        sent = {"image": scene_png}
        client.post("/v1/classify", files=sent, data={"labels": "a,b"}, headers={"X-Request-ID": "find-me-1"})
    folder = Path(cluster.environment["ARGUS_RUN_DIR"]) / cluster.name / "ray" / "session_latest" / "logs" / "serve"

    def mine() -> list[dict[str, Any]]:
        return [line for line in lines_of(folder, "requests_*router*") if line.get("request_id") == "find-me-1"]

    (record,) = until(mine)
    assert (record["operation"], record["client"], record["outcome"], record["status"]) == (
        "/v1/classify",
        "tester",
        "ok",
        200,
    )
    assert record["seconds"] > 0
