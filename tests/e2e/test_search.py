"""Image search through the API: what is added is found, survives a killed process, and is bounded."""

from __future__ import annotations

import base64
import os
import signal
import time

import httpx
import psutil
import pytest

from demo.scenes import render, sample_scene
from tests.e2e.cluster import Cluster
from tests.e2e.conftest import encode
from tests.support.waiting import until

pytestmark = pytest.mark.cluster


def scene(index: int) -> tuple[str, bytes]:
    """Label and PNG of a one-object scene."""
    made = sample_scene(index, split="test", difficulty="easy")
    return f"{made.objects[0].colour} {made.objects[0].shape}", encode(render(made, 128), "PNG")


def test_scenes_are_found_by_image_and_by_text(cluster: Cluster) -> None:
    scenes = {f"scene/{i}": scene(i) for i in range(60)}
    items = [
        {"id": name, "image": base64.b64encode(png).decode(), "metadata": {"label": label, "number": i}}
        for i, (name, (label, png)) in enumerate(scenes.items())
    ]
    with cluster.client() as client:
        created = client.put("/v1/indexes/scenes", json={"model": "clip"}).json()
        assert (created["dimension"], created["model"], created["count"]) == (128, "clip", 0)
        assert client.post("/v1/indexes/scenes/items", json={"items": items}).json()["added"] == 60
        name, (label, png) = next(iter(scenes.items()))
        by_image = client.post("/v1/indexes/scenes/search", files={"image": png}, data={"k": "3"}).json()["hits"]
        assert by_image[0]["id"] == name and by_image[0]["score"] > 0.999
        texts = sorted({text for text, _ in scenes.values()})
        right = sum(
            client.post("/v1/indexes/scenes/search", json={"text": f"a photo of a {text}.", "k": 1}).json()["hits"][0][
                "metadata"
            ]["label"]
            == text
            for text in texts
        )
        assert right >= 0.9 * len(texts)
        filtered = client.post(
            "/v1/indexes/scenes/search", json={"text": "a star", "k": 50, "filter": {"number": {"lt": 10}}}
        ).json()["hits"]
        assert len(filtered) == 10 and all(hit["metadata"]["number"] < 10 for hit in filtered)
        item = client.get(f"/v1/indexes/scenes/items/{name}").json()
        assert item["metadata"] == {"label": label, "number": 0} and len(item["vector"]) == 128
        assert client.delete(f"/v1/indexes/scenes/items/{name}").json()["deleted"] == 1
        missing = client.get(f"/v1/indexes/scenes/items/{name}")
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "item_not_found")
        assert (
            client.post("/v1/indexes/scenes/delete", json={"filter": {"number": {"gte": 30}}}).json()["deleted"] == 30
        )
        assert client.delete("/v1/indexes/scenes").json()["deleted"] is True
        assert client.get("/v1/indexes/scenes").status_code == 404


def test_one_wrong_item_stores_none_and_is_named(cluster: Cluster) -> None:
    _, png = scene(0)
    good, bad = base64.b64encode(png).decode(), base64.b64encode(png[: len(png) // 2]).decode()
    with cluster.client() as client:
        client.put("/v1/indexes/strict", json={"model": "clip"})
        answer = client.post(
            "/v1/indexes/strict/items", json={"items": [{"id": "a", "image": good}, {"id": "b", "image": bad}]}
        )
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "items[1].image")
        assert client.get("/v1/indexes/strict").json()["count"] == 0
        wrong = client.post("/v1/indexes/strict/items", json={"items": [{"id": "a", "vector": [1.0, 2.0]}]})
        assert (wrong.status_code, wrong.json()["error"]["code"]) == (400, "dimension_mismatch")
        both = client.post("/v1/indexes/strict/search", json={"text": "x", "vector": [1.0]})
        assert both.json()["error"]["code"] == "missing_field"
        name = client.put("/v1/indexes/..%2Fescape", json={})
        assert name.status_code in (400, 404)
        client.delete("/v1/indexes/strict")


def test_acknowledged_items_survive_the_death_of_the_index(cluster: Cluster) -> None:
    acknowledged: list[str] = []
    with cluster.client() as client:
        client.put("/v1/indexes/durable", json={"dimension": 4})
        victim = next(pid for pid in cluster.pids() if "VectorIndex" in _title(pid) or ":index" in _title(pid))
        for i in range(200):
            if i == 100:
                os.kill(victim, signal.SIGKILL)
            try:
                body = {"items": [{"id": f"i{i}", "vector": [i, 1, 2, 3]}]}
                answer = client.post("/v1/indexes/durable/items", json=body, headers={"X-Argus-Timeout-Ms": "2000"})
            except httpx.TransportError:
                continue
            if answer.status_code == 200:
                acknowledged.append(f"i{i}")
            else:
                assert answer.status_code in (503, 504), answer.text
                time.sleep(0.1)
        assert until(lambda: client.get("/v1/indexes/durable", headers={"X-Argus-Timeout-Ms": "2000"}).is_success)
        assert len(acknowledged) >= 100
        for name in acknowledged:
            assert client.get(f"/v1/indexes/durable/items/{name}").status_code == 200, name
        client.delete("/v1/indexes/durable")


def _title(pid: int) -> str:
    try:
        return " ".join(psutil.Process(pid).cmdline())
    except psutil.NoSuchProcess:
        return ""
