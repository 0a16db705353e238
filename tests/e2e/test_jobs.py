"""A job outlives the router replica that runs it, the store that holds it, and in the end the whole application."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from demo.scenes import render, sample_scene
from tests.e2e import cluster as clusters
from tests.e2e.cluster import Cluster
from tests.e2e.conftest import encode
from tests.support.noted_model import VARIABLE
from tests.unit.video_files import encode as encode_video
from tests.unit.video_files import shots

pytestmark = pytest.mark.cluster

# So many that some are left when all has been killed in turn, however late that is seen.
IMAGES = 60
# Images that a worker has at its model at once, which are asked about again when it dies.
AT_ONCE = 8
FILES = [encode(render(sample_scene(number, split="test"), 64), "PNG") for number in range(IMAGES)]
REQUEST = {"operation": "classify", "request": json.dumps({"labels": ["a", "b", "c"]})}


@dataclass(frozen=True)
class Site:
    """A cluster, and what its model notes."""

    cluster: Cluster
    file: Path
    notes: Path

    def asked(self) -> Counter[str]:
        """How often each image, by its digest, was asked about."""
        return Counter(self.notes.read_text(encoding="ascii").split()) if self.notes.exists() else Counter()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("jobs")
    content: dict[str, Any] = {
        "node_pools": {"local": {"cpus": 2}},
        "router": {"num_cpus": 0.3},
        "resilience": {"cache": {"enabled": False}},
        "models": {
            "noted": {
                "kind": "custom",
                "implementation": "tests.support.noted_model:Noted",
                "tasks": ["classify"],
                "placement": {"num_cpus": 0.2},
            },
            "jobs": {
                "kind": "job_store",
                "path": str(folder / "jobs"),
                "lease_s": 10,
                "placement": {"num_cpus": 0.1},
            },
        },
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(folder / "notes"))
        cluster = clusters.start("jobs", content, folder)
    yield Site(cluster, folder / "jobs.yaml", folder / "notes")
    clusters.stop(cluster)


@pytest.fixture(scope="module")
def cinema(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, Path]]:
    """A cluster that watches videos, and its file."""
    folder = tmp_path_factory.mktemp("cinema")
    content: dict[str, Any] = {
        "node_pools": {"local": {"cpus": 2}},
        "router": {"num_cpus": 0.3},
        "resilience": {"cache": {"enabled": False}},
        "videos": {"reader": "reader", "backends": ["watcher"], "concurrency": 1, "overlap_s": 0},
        "models": {
            "watcher": {
                "kind": "video_llava",
                "checkpoint": "demo:video_llava",
                "engine": "transformers",
                "placement": {"num_cpus": 0.2},
            },
            "reader": {"kind": "video_reader", "placement": {"num_cpus": 0.2}},
            "jobs": {"kind": "job_store", "path": str(folder / "jobs"), "lease_s": 10, "placement": {"num_cpus": 0.1}},
        },
    }
    cluster = clusters.start("cinema", content, folder)
    yield cluster, folder / "cinema.yaml"
    clusters.stop(cluster)


@pytest.fixture
def client(site: Site) -> Iterator[httpx.Client]:
    with site.cluster.client() as made:
        yield made


def submit(client: httpx.Client, files: list[bytes], **fields: str) -> str:
    parts = [("images", (f"{i}.png", data, "image/png")) for i, data in enumerate(files)]
    response = client.post("/v1/jobs", data={**REQUEST, **fields}, files=parts)
    assert response.status_code == 202, response.text
    return str(response.json()["id"])


def until(client: httpx.Client, job: str, is_so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The job once it is so; a cluster that is away for a while is asked again."""
    for _ in range(600):
        try:
            response = client.get(f"/v1/jobs/{job}", headers={"X-Argus-Timeout-Ms": "5000"})
        except httpx.TransportError:
            response = None
        if response is not None and response.status_code < 500:
            assert response.status_code == 200, response.text
            found: dict[str, Any] = response.json()
            if is_so(found):
                return found
            assert found["status"] in ("queued", "running"), found
        time.sleep(0.2)
    raise AssertionError("it never was")


def done(job: dict[str, Any]) -> int:
    return int(job["progress"]["done"])


def kill(cluster: Cluster, deployment: str) -> None:
    """Ends a replica's process as a crash would."""
    (pid,) = [pid for pid in cluster.pids() if re.search(rf"ServeReplica:.*:{deployment}\b", title(pid))]
    os.kill(pid, signal.SIGKILL)


def title(pid: int) -> str:
    try:
        return " ".join(psutil.Process(pid).cmdline())
    except psutil.NoSuchProcess:
        return ""


def kill_all(cluster: Cluster) -> None:
    """Ends every process of the cluster at once, as a machine that loses its power does."""
    processes = [psutil.Process(pid) for pid in cluster.pids() if psutil.pid_exists(pid)]
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=30)


def start_again(cluster: Cluster, file: Path) -> None:
    clusters.up(file, cluster.environment)


def test_a_job_survives_router_store_and_the_whole_application(site: Site, client: httpx.Client) -> None:
    job = submit(client, FILES)
    first = until(client, job, lambda found: done(found) >= 4)
    assert first["status"] == "running" and first["attempts"] == 1
    kill(site.cluster, "router")
    second = until(client, job, lambda found: found["attempts"] >= 2 and done(found) >= 12)
    assert second["started_at"] == first["started_at"]
    kill(site.cluster, "jobs")
    third = until(client, job, lambda found: done(found) >= 16)
    assert done(third) < IMAGES
    kill_all(site.cluster)
    before = site.asked()
    assert len(before) < IMAGES, "the end of the job is still to come"

    start_again(site.cluster, site.file)
    last = until(client, job, lambda found: found["status"] == "succeeded")
    assert last["attempts"] >= 3 and done(last) == IMAGES
    assert (last["id"], last["created_at"]) == (job, first["created_at"])

    # Every image was asked about; what a client saw done was not done again.
    asked = site.asked()
    assert set(asked) == {hashlib.sha256(file).hexdigest() for file in FILES}
    failed = last["attempts"] - third["attempts"] - 1  # attempts after the restart that somehow ended early
    assert asked.total() - before.total() <= IMAGES - done(third) + failed * AT_ONCE
    assert asked.total() <= IMAGES + AT_ONCE * (last["attempts"] - 1)

    # And the answers are those of the route, in order.
    parts = [("images", (f"{i}.png", data, "image/png")) for i, data in enumerate(FILES[:3])]
    for i, part in enumerate(parts):
        direct = client.post("/v1/classify", data={"labels": "a,b,c"}, files=[part]).json()
        assert last["result"]["results"][i] == {**direct["results"][0], "index": i}
    assert client.get(f"/v1/jobs/{job}/result").json() == last["result"]


def test_a_running_job_is_watched_and_cancelled(site: Site, client: httpx.Client) -> None:
    job = submit(client, FILES)
    seen: list[tuple[str, int, str]] = []
    with client.stream("GET", f"/v1/jobs/{job}/events") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        event: dict[str, str] = {}
        for line in response.iter_lines():
            if line:
                name, _, value = line.partition(": ")
                event[name] = value
                continue
            if "data" in event:
                seen.append((event["event"], int(event["id"]), json.loads(event["data"])["status"]))
                if seen[-1][2] == "running" and len(seen) == 4:
                    assert client.post(f"/v1/jobs/{job}/cancel").status_code == 200
            event = {}
    assert (seen[-1][0], seen[-1][2]) == ("error", "cancelled")
    assert [number for _, number, _ in seen] == sorted({number for _, number, _ in seen})
    asked = site.asked().total()
    direct = client.post("/v1/classify", data={"labels": "a,b"}, files=[("image", ("a.png", FILES[0], "image/png"))])
    assert direct.status_code == 200
    assert site.asked().total() - asked <= 1 + 2  # what the model had begun; the rest has left its queue


def test_a_job_of_a_key_is_submitted_once(client: httpx.Client) -> None:
    ids = {submit(client, FILES[:2], idempotency_key="only") for _ in range(3)}
    assert len(ids) == 1
    (job,) = ids
    assert until(client, job, lambda found: found["status"] == "succeeded")["attempts"] == 1
    assert client.delete(f"/v1/jobs/{job}").json()["deleted"] is True
    assert client.get(f"/v1/jobs/{job}").status_code == 404


@pytest.mark.slow  # with a cluster of its own; the test before kills the same processes under another job
def test_a_video_is_watched_to_its_end_over_kills(cinema: tuple[Cluster, Path]) -> None:
    cluster, file = cinema
    video = encode_video(shots([50] * 4), rate=5)  # 40 s
    request = {"chunk_s": 1, "max_tokens": 24}
    with cluster.client() as client:
        response = client.post(
            "/v1/jobs",
            data={"operation": "videos.describe", "request": json.dumps(request)},
            files={"video": ("long.mp4", video, "video/mp4")},
        )
        assert response.status_code == 202, response.text
        job = response.json()["id"]
        first = until(client, job, lambda found: done(found) >= 3)
        chunks = first["progress"]["total"]
        assert first["progress"]["stage"] == "watching" and chunks > 20
        kill(cluster, "router")
        second = until(client, job, lambda found: found["attempts"] > 1 and done(found) >= done(first) + 3)
        assert done(second) < chunks, "the end of the job is still to come"
        kill_all(cluster)
        start_again(cluster, file)
        last = until(client, job, lambda found: found["status"] == "succeeded")
        assert last["attempts"] > second["attempts"] and done(last) == chunks

        # What came of it is what the route answers: no part is missing, none stands twice.
        direct = client.post(
            "/v1/videos/describe",
            data={k: str(v) for k, v in request.items()},
            files={"video": video},
            headers={"X-Argus-Timeout-Ms": "280000"},
            timeout=300,
        )
        assert direct.status_code == 200, direct.text
        segments = last["result"]["segments"]
        assert [segment["index"] for segment in segments] == list(range(chunks))
        assert [segment["text"] for segment in segments] == [segment["text"] for segment in direct.json()["segments"]]
