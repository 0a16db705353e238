"""A model without replicas on a real cluster: its first calls, what they are told, and that it goes to sleep again.

Its autoscaler is the policy for cascades, which Ray Serve's controller runs on what the router tells.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import httpx
import psutil
import pytest

from tests.e2e import cluster as clusters
from tests.e2e.cluster import Cluster
from tests.e2e.test_observability import scrape, total

pytestmark = pytest.mark.cluster

# A Python worker of Ray takes some seconds to start; more are said, so that a short deadline is certainly too short.
START_S, KEEP_S = 15, 6


@pytest.fixture(scope="module")
def sleepy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    noop = {"kind": "custom", "implementation": "benchmarks.noop:NoopModel", "tasks": ["classify"]}
    scaling = {
        "min_replicas": 0,
        "max_replicas": 2,
        "downscale_delay_s": KEEP_S,
        "start_s": START_S,
        "calls_per_s": 1000,
        "cold_queue": 2,
    }
    content = {
        "node_pools": {"local": {"cpus": 2}},
        "models": {
            "quick": {**noop, "placement": {"num_cpus": 0.1}},
            "rare": {**noop, "placement": {"num_cpus": 0.1}, "autoscaling": scaling},
        },
        "cascades": {
            "unsure": {
                "answer": "label",
                "labels": ["a", "b", "c"],
                "deadline_s": 60,
                "steps": [
                    {
                        "name": "first",
                        "use": "quick",
                        "task": "classify",
                        "accept": {"rule": "confidence", "at_least": 0.9},
                    },
                    {"name": "second", "use": "rare", "task": "classify"},
                ],
            }
        },
        "autoscaling": {"policy": "cascade"},
        "resilience": {"cache": {"enabled": False}},
        "router": {"num_cpus": 0.2},
    }
    running = clusters.start("sleepy", content, tmp_path_factory.mktemp("sleepy"))
    yield running
    clusters.stop(running)


def replicas(cluster: Cluster) -> int:
    """Processes of the rare model's replicas."""
    count = 0
    for pid in cluster.pids():
        try:
            line = " ".join(psutil.Process(pid).cmdline())
        except psutil.NoSuchProcess:
            continue
        count += "ServeReplica" in line and ":rare" in line
    return count


def eventually(what: Callable[[], bool], why: str, seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, why
        time.sleep(0.5)


def ask(client: httpx.Client, image: bytes, timeout_ms: int) -> httpx.Response:
    return client.post(
        "/v1/classify",
        files={"image": ("a.png", image, "image/png")},
        data={"labels": ["a", "b"], "model": "rare"},
        headers={"X-Argus-Timeout-Ms": str(timeout_ms)},
    )


def test_a_model_sleeps_wakes_and_sleeps_again(sleepy: Cluster, scene_png: bytes) -> None:
    with sleepy.client() as client:
        client.timeout = 270
        # Ready without it, and asking whether wakes nobody.
        assert client.get("/v1/readyz").status_code == 200
        assert client.get("/v2/models/rare.classify/ready").status_code == 200
        assert replicas(sleepy) == 0

        # Who cannot wait so long is told at once, and when to come again.
        refused = ask(client, scene_png, 8000)
        assert refused.status_code == 503, refused.text
        assert refused.json()["error"]["code"] == "model_starting"
        assert START_S - 3 <= int(refused.headers["Retry-After"]) <= START_S

        # A cascade gives what it has: the second step could not answer in the second's share of the time.
        image = {"image": ("a.png", scene_png, "image/png")}
        degraded = client.post("/v1/cascades/unsure", files=image, headers={"X-Argus-Timeout-Ms": "8000"})
        assert degraded.status_code == 200, degraded.text
        (result,) = degraded.json()["results"]
        assert result["degraded"] is True
        assert result["trace"][1]["failure"] == "unavailable"

        # Who can wait is answered when the replica that the first call wished is there.
        answered = ask(client, scene_png, 240_000)
        assert answered.status_code == 200, answered.text
        assert replicas(sleepy) == 1
        assert ask(client, scene_png, 8000).status_code == 200, "now it is awake"

        # Asked whether they are ready all the time, as Kubernetes asks, it goes to sleep all the same.
        def asleep() -> bool:
            assert client.get("/v1/readyz").status_code == 200
            return replicas(sleepy) == 0

        eventually(asleep, "the replica stays although nobody asks it anything")


def test_the_policy_decides_on_what_the_router_tells(sleepy: Cluster, scene_png: bytes) -> None:
    with sleepy.client() as client:
        image = {"image": ("a.png", scene_png, "image/png")}

        def expected() -> bool:
            """Every request of the cascade goes on, so the rare model is expected as many calls."""
            for _ in range(5):
                assert client.post("/v1/cascades/unsure", files=image).status_code == 200
            told = scrape(sleepy).get("ray_argus_autoscaling_expected_calls", [])
            levels = [value for labels, value in told if labels.get("model") == "rare"]
            return bool(levels) and max(levels) > 0.5

        eventually(expected, "no expectation was exported")
        assert total(scrape(sleepy).get("ray_argus_autoscaling_failures_total", [])) == 0
