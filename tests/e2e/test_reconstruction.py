"""Photos sent to a cluster become a scene that it draws, whatever dies on the way."""

from __future__ import annotations

import io
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import av
import httpx
import numpy as np
import psutil
import pytest
from PIL import Image

from deployments.reconstruction.messages import STAGES, Stage
from tests.e2e.cluster import Cluster
from tests.reconstruction_photos import files

pytestmark = pytest.mark.cluster

PHOTOS = [("photos", (f"{i}.png", data, "image/png")) for i, data in enumerate(files())]


@pytest.fixture
def client(cluster: Cluster) -> Iterator[httpx.Client]:
    with cluster.client() as made:
        yield made


def submit(client: httpx.Client, **fields: str) -> str:
    response = client.post("/v1/reconstructions", data={"quality": "preview", **fields}, files=PHOTOS)
    assert response.status_code == 202, response.text
    return str(response.json()["id"])


def until(client: httpx.Client, job: str, is_so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The reconstruction once it is so; what is away for a while is asked again."""
    for _ in range(1500):
        response = client.get(f"/v1/reconstructions/{job}", headers={"X-Argus-Timeout-Ms": "5000"})
        if response.status_code < 500:
            assert response.status_code == 200, response.text
            found: dict[str, Any] = response.json()
            if is_so(found):
                return found
            assert found["status"] in ("queued", "running"), found
        time.sleep(0.2)
    raise AssertionError("it never was")


def stage(found: dict[str, Any]) -> str:
    return "" if found["work"] is None else str(found["work"]["stage"])


def reached(found: dict[str, Any], wanted: Stage) -> bool:
    """Whether it is in a stage or past it: a short one may come and go between two looks."""
    order = list(STAGES)
    return stage(found) in order[order.index(wanted) :]


def processes(cluster: Cluster, pattern: str) -> list[psutil.Process]:
    found = []
    for pid in cluster.pids():
        try:
            process = psutil.Process(pid)
            if re.search(pattern, " ".join(process.cmdline())):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


@pytest.mark.timeout(900)
def test_a_scene_whatever_dies_on_the_way(cluster: Cluster, client: httpx.Client) -> None:
    job = submit(client, name="studio")
    until(client, job, lambda found: reached(found, "matching"))
    (worker,) = processes(cluster, r"deployments\.reconstruction\.worker")
    os.kill(worker.pid, signal.SIGKILL)
    found = until(client, job, lambda found: stage(found) == "training" and found["work"]["preview"] > 0)
    picture = client.get(found["work"]["preview_url"])
    assert Image.open(io.BytesIO(picture.content)).size == (200, 150)
    (replica,) = processes(cluster, r"ServeReplica:.*:reconstruction\b")
    (worker,) = processes(cluster, r"deployments\.reconstruction\.worker")
    os.kill(replica.pid, signal.SIGKILL)
    worker.wait(timeout=60)  # it ends with its replica

    found = until(client, job, lambda found: found["status"] == "succeeded")
    result = found["result"]
    assert result["metrics"]["held_out"] and result["metrics"]["psnr"] > 15
    assert result["report"]["mapping"]["aligned"] == len(PHOTOS)
    scene = client.get("/v1/scenes/studio").json()
    assert (scene["source"], scene["up"]) == ("reconstruction", [0.0, -1.0, 0.0])
    assert scene["digest"] == result["scene"]["digest"] and scene["gaussians"] > 1000

    film = client.get(result["turntable"]["url"])
    with av.open(io.BytesIO(film.content)) as video:
        assert video.streams.video[0].frames == 96
    view = client.get("/v1/scenes/studio/render", params={"width": 64, "height": 48})
    assert view.status_code == 200, view.text
    exported = client.get("/v1/scenes/studio/export", params={"format": "ply"})
    assert exported.content[:3] == b"ply"


def test_a_cancelled_job_stops_its_work(cluster: Cluster, client: httpx.Client) -> None:
    job = submit(client, name="never")
    until(client, job, lambda found: reached(found, "features"))
    (worker,) = processes(cluster, r"deployments\.reconstruction\.worker")
    assert client.post(f"/v1/reconstructions/{job}/cancel").status_code == 200
    worker.wait(timeout=60)
    assert client.get("/v1/scenes/never").status_code == 404


def test_what_cannot_become_a_scene_is_said(client: httpx.Client) -> None:
    """Photos of nothing in common fail, as a job, with the photographer's error."""
    rng = np.random.default_rng(1)
    media = []
    for number in range(4):
        buffer = io.BytesIO()
        pixels = rng.integers(0, 256, (30, 40, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
        Image.fromarray(pixels).save(buffer, "PNG")
        media.append(("photos", (f"{number}.png", buffer.getvalue(), "image/png")))
    response = client.post("/v1/reconstructions", data={"name": "nothing", "quality": "preview"}, files=media)
    job = response.json()["id"]
    found = until(client, job, lambda found: found["status"] == "failed")
    assert found["error"]["code"] == "photos_do_not_overlap"
