"""A small cluster that does a little of everything, the providers that it asks, and clients that keep it busy.

It stands behind the tests of dashboards and of `argus top`, and behind the picture in docs/observability.md."""

from __future__ import annotations

import base64
import itertools
import json
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import tritonclient.grpc as triton_grpc
import websockets.sync.client as websockets

from benchmarks.fake_providers import KEY as PROVIDER_KEY
from benchmarks.fake_providers import FakeOpenAI, Fault, in_thread
from benchmarks.redis_server import redis_server
from demo.scenes import render, sample_scene
from demo.scenes3d import build
from deployments.splat.scene_file import write as write_scene
from serve.auth import hash_key
from tests.e2e import cluster as clusters
from tests.e2e.cluster import KEY, Cluster
from tests.e2e.conftest import encode
from tests.e2e.test_chat import engine_process

KEY_VARIABLE = "ARGUS_OBSERVED_PROVIDER_KEY"
LOW_KEY = "low-key-0123456789"
LABELS = ["red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "white", "black"]
SCENES = ("table", "carousel")
DOOMED = "doomed"


def content(folder: Path, redis_url: str, hosted: str, broken: str, collector: str) -> dict[str, Any]:
    """Its cluster file.

    Args:
        hosted, broken: addresses of providers, the second of one that always fails.
        collector: address that takes spans.
    """
    provider = {"kind": "openai", "model": "gpt-4o", "api_key_env": KEY_VARIABLE}
    small = {"num_cpus": 0.1}
    screen = {"name": "screen", "use": "clip", "task": "classify"}
    label = {"answer": "label", "labels": LABELS, "templates": ["the object is {}"]}
    ask = {"task": "choose", "prompt": "What colour is the object?", "max_tokens": 8}
    return {
        "node_pools": {"local": {"cpus": 2, "memory_gb": 8}},
        # Few places, so that a crowd is turned away.
        "router": {"num_cpus": 0.2, "max_ongoing_requests": 24},
        "tracing": {"endpoint": collector, "sample_ratio": 1.0},
        "objectives": {
            "slos": {
                "availability": {"kind": "availability", "target": 0.99},
                "classify-latency": {"kind": "latency", "route": "/v1/classify", "under_s": 0.3, "target": 0.95},
                "moderation-agreement": {"kind": "agreement", "cascade": "moderation", "target": 0.9},
            }
        },
        "auth": {"keys": [{"name": "tester", "sha256": hash_key(KEY)}, {"name": "batch", "sha256": hash_key(LOW_KEY)}]},
        "models": {
            # Its number may change, so the autoscaler says what it expects; nothing here makes it grow.
            "clip": {
                "kind": "clip",
                "checkpoint": "demo:clip",
                "placement": {"num_cpus": 0.3},
                "autoscaling": {
                    "min_replicas": 1,
                    "max_replicas": 2,
                    "target_ongoing_requests": 1000,
                    "calls_per_s": 1000,
                    "max_wait_s": 60,
                },
            },
            "index": {"kind": "vector_index", "path": str(folder / "indexes"), "placement": small},
            "llava": {"kind": "llava", "checkpoint": "demo:llava", "placement": small},
            "scenes": {
                "kind": "scene_store",
                "path": str(folder / "scenes"),
                "preload": {name: f"demo:{name}.{kind}" for name, kind in zip(SCENES, ("spz", "argus"), strict=True)},
                "placement": small,
            },
            # Too little for both scenes at once: they take turns.
            "splat": {"kind": "splat", "scenes": "scenes", "scene_memory_gb": 0.003, "placement": small},
            "jobs": {"kind": "job_store", "path": str(folder / "jobs"), "placement": small},
        },
        "providers": {
            "hosted": provider | {"base_url": hosted},
            "broken": provider | {"base_url": broken},
        },
        "cascades": {
            "moderation": {
                **label,
                "policy": {"allow": LABELS[2:9], "block": ["red", "black"], "review": ["orange"]},
                "calibration": "demo:moderation",
                "steps": [
                    {**screen, "accept": {"rule": "confidence", "at_least": 0.9}},
                    {"name": "analyse", "use": "llava", **ask},
                ],
                "shadow": {"share": 0.3, "alarm_error": 0.05},
                "gears": [{"name": "fast", "above_requests_per_s": 5, "thresholds": {"screen": 0.8}}],
                "gear_hold_s": 2,
            },
            "paid": {
                **label,
                "steps": [
                    {**screen, "accept": {"rule": "confidence", "at_least": 0.97}},
                    {"name": "ask", "use": "hosted", **ask},
                ],
            },
            "fragile": {
                **label,
                "steps": [
                    {**screen, "accept": {"rule": "confidence", "at_least": 0.999}},
                    {"name": "ask", "use": "broken", **ask},
                ],
            },
        },
        "resilience": {
            "redis": {"url": redis_url},
            "usd_per_day": 5.0,
            "targets": {"hosted": {"hedge": {"quantile": 0.9, "max_extra": 0.5, "min_samples": 10}}},
        },
        "tenants": {"batch": {"priority": "low"}},
        "overload": {},  # it sheds as a cluster does by default
    }


@contextmanager
def span_collector() -> Iterator[str]:
    """An OTLP collector's HTTP side, by its address: takes what is posted, and refuses every fifth time."""
    posts = itertools.count(1)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(400 if next(posts) % 5 == 0 else 200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@dataclass(frozen=True)
class Observed:
    """The running cluster, and its folder, where the cluster file lies as `seen.yaml`."""

    cluster: Cluster
    folder: Path


@contextmanager
def observed(folder: Path) -> Iterator[Observed]:
    """The cluster, with Redis and both providers, for the time of the block."""
    os.environ[KEY_VARIABLE] = PROVIDER_KEY
    hosted, broken = FakeOpenAI(answer="red", latency_s=0.02), FakeOpenAI()
    hosted.always = lambda number: {4: Fault("503"), 7: Fault("slow", delay_s=0.6)}.get(number % 9)
    broken.always = Fault("500")
    with ExitStack() as stack:
        stack.enter_context(in_thread(hosted))
        stack.enter_context(in_thread(broken))
        redis = stack.enter_context(redis_server(folder))
        collector = stack.enter_context(span_collector())
        made = content(folder, redis.url, hosted.base_url, broken.base_url, collector)
        running = clusters.start("seen", made, folder)
        stack.callback(clusters.stop, running)
        yield Observed(running, folder)


class Clients:
    """Each kind of request in a loop of its own, with pauses, until `stop`."""

    def __init__(self, seen: Observed) -> None:
        self._cluster = seen.cluster
        self._store = seen.folder / "scenes"
        self._numbers = itertools.count()
        self._deadlines_ms = itertools.cycle((3, 6, 12, 25, 50, 100, 200, 400))
        self._same = self._png()
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(32)
        self.statuses: dict[str, dict[int, int]] = {}

    def start(self) -> None:
        """Makes the index, then lets all loops begin."""
        with self._cluster.client() as client:
            client.put("/v1/indexes/pictures", json={"model": "clip"}).raise_for_status()
            self._doom(client)
        for act, pause_s in self._acts():
            self._pool.submit(self._loop, act, pause_s)

    def _doom(self, client: httpx.Client) -> None:
        """Makes a scene whose file is then lost, as by a broken disk."""
        files = {path for path in self._store.rglob("*") if path.is_file()}
        data = write_scene(build("table").gaussians)
        client.post("/v1/scenes", data={"name": DOOMED}, files={"file": ("scene", data)}).raise_for_status()
        for path in {path for path in self._store.rglob("*") if path.is_file()} - files:
            path.unlink()

    def kill_engine(self) -> None:
        """Ends the chat model's engine, as a crash does; it is replaced in place."""
        engine_process(self._cluster, "llava").kill()

    def answered(self, act: str) -> int:
        """How many requests of a kind have succeeded."""
        return self.statuses.get(act, {}).get(httpx.codes.OK, 0)

    def stop(self) -> None:
        """Returns once every loop has ended."""
        self._over.set()
        self._pool.shutdown()

    def _acts(self) -> list[tuple[Callable[[httpx.Client], httpx.Response | None], float]]:
        return [
            (self.classify, 0.3),
            (self.classify_late, 0.5),
            (self.moderate, 0.5),
            (self.pay, 0.5),
            (self.break_down, 1.0),
            (self.chat, 1.0),
            (self.ask_hosted, 0.4),
            (self.ask_hosted_again, 0.5),
            (self.ask_hosted_together, 1.0),
            (self.search, 0.7),
            (self.draw, 0.6),
            (self.look_live, 2.0),
            (self.infer, 0.6),
            (self.submit, 3.0),
            (self.mistake, 1.0),
            (self.lost, 2.0),
            (self.crowd, 5.0),
            (self.rush, 9.0),
            (self.open_doomed, 3.0),
        ]

    def _loop(self, act: Callable[[httpx.Client], httpx.Response | None], pause_s: float) -> None:
        seen = self.statuses.setdefault(act.__name__, {})
        with self._cluster.client() as client:
            while not self._over.is_set():
                try:
                    response = act(client)
                    status = 0 if response is None else response.status_code
                except Exception as error:  # one lost request must not silence a whole series
                    status = -1
                    self.statuses.setdefault(f"{act.__name__}: {error!r:.120}", {})
                seen[status] = seen.get(status, 0) + 1
                self._over.wait(pause_s)

    def _png(self, difficulty: str = "easy") -> bytes:
        scene = sample_scene(next(self._numbers), split="test", difficulty=difficulty)  # type: ignore[arg-type]
        return encode(render(scene, 128), "PNG")

    def classify(self, client: httpx.Client) -> httpx.Response:
        return client.post("/v1/classify", files={"image": self._png()}, data={"labels": "red,blue,green"})

    def classify_late(self, client: httpx.Client) -> httpx.Response:
        """A deadline that cannot be kept: here in the router, there in the model's queue, as fast as the machine is."""
        late = {"X-Argus-Timeout-Ms": str(next(self._deadlines_ms))}
        return client.post("/v1/classify", files={"image": self._png()}, data={"labels": "red,blue"}, headers=late)

    def moderate(self, client: httpx.Client) -> httpx.Response:
        return client.post("/v1/cascades/moderation", files={"image": self._png("hard")})

    def pay(self, client: httpx.Client) -> httpx.Response:
        return client.post("/v1/cascades/paid", files={"image": self._png("hard")})

    def break_down(self, client: httpx.Client) -> httpx.Response:
        return client.post("/v1/cascades/fragile", files={"image": self._png("hard")})

    def chat(self, client: httpx.Client) -> httpx.Response:
        """The same picture every second time, so that the engine's prefix cache has it."""
        picture = self._png() if next(self._numbers) % 2 else self._same
        return self._chat(client, "llava", "What colour is the object?", picture=picture, stream=True)

    def ask_hosted(self, client: httpx.Client) -> httpx.Response:
        return self._chat(client, "hosted", f"Question {next(self._numbers)}")

    def ask_hosted_again(self, client: httpx.Client) -> httpx.Response:
        return self._chat(client, "hosted", "The same question")

    def ask_hosted_together(self, client: httpx.Client) -> httpx.Response:
        question = f"Question {next(self._numbers)} of several"
        with ThreadPoolExecutor(3) as several:
            return list(several.map(lambda _: self._chat(client, "hosted", question), range(3)))[-1]

    def _chat(
        self, client: httpx.Client, model: str, question: str, picture: bytes | None = None, **more: Any
    ) -> httpx.Response:
        parts: list[dict[str, Any]] = [{"type": "text", "text": question}]
        if picture is not None:
            uri = "data:image/png;base64," + base64.b64encode(picture).decode()
            parts.insert(0, {"type": "image_url", "image_url": {"url": uri}})
        body = {"model": model, "temperature": 0, "max_tokens": 12, "messages": [{"role": "user", "content": parts}]}
        return client.post("/v1/chat/completions", json=body | more)

    def search(self, client: httpx.Client) -> httpx.Response:
        item = {"id": str(next(self._numbers)), "image": base64.b64encode(self._png()).decode()}
        client.post("/v1/indexes/pictures/items", json={"items": [item]}).raise_for_status()
        return client.post("/v1/indexes/pictures/search", json={"text": "a red star", "k": 3})

    def draw(self, client: httpx.Client) -> httpx.Response:
        number = next(self._numbers)
        camera = {"orbit": {"azimuth_deg": number % 360}}
        body = {"camera": camera, "width": 96, "height": 64, "format": "jpeg"}
        return client.post(f"/v1/scenes/{SCENES[number // 8 % 2]}/render", json=body)

    def look_live(self, client: httpx.Client) -> None:
        address = self._cluster.http.replace("http", "ws", 1) + f"/v1/scenes/{SCENES[0]}/stream"
        with websockets.connect(address, additional_headers=self._cluster.headers, proxy=None) as socket:
            socket.send(json.dumps({"width": 96, "height": 64}))
            socket.recv(timeout=20)
            self._over.wait(3)

    def infer(self, client: httpx.Client) -> None:
        given = triton_grpc.InferInput("IMAGE", [1], "BYTES")
        given.set_data_from_numpy(np.array([self._png()], object))
        with triton_grpc.InferenceServerClient(self._cluster.grpc) as asking:
            asking.infer("moderation.cascade", [given], headers={"x-api-key": KEY})

    def submit(self, client: httpx.Client) -> httpx.Response:
        job = {"operation": "classify", "request": json.dumps({"labels": ["red", "blue"]})}
        return client.post("/v1/jobs", data=job, files=[("images", ("a.png", self._png(), "image/png"))])

    def mistake(self, client: httpx.Client) -> httpx.Response:
        return client.post("/v1/classify", files={"image": b"no image"}, data={"labels": "red,blue"})

    def lost(self, client: httpx.Client) -> httpx.Response:
        return client.get(f"/v1/nowhere/{next(self._numbers)}")

    def crowd(self, client: httpx.Client) -> httpx.Response:
        """More at once than there are places for."""
        low = {"X-API-Key": LOW_KEY}
        pictures = [self._png() for _ in range(40)]

        def one(png: bytes) -> httpx.Response:
            files = {"image": png}
            return client.post("/v1/classify", files=files, data={"labels": "red,blue"}, headers=low)

        with ThreadPoolExecutor(40) as several:
            return list(several.map(one, pictures))[-1]

    def rush(self, client: httpx.Client) -> httpx.Response:
        """A few moderations at once, for the gear."""
        with ThreadPoolExecutor(12) as several:
            return list(several.map(lambda _: self.moderate(client), range(12)))[-1]

    def open_doomed(self, client: httpx.Client) -> httpx.Response:
        """A scene whose file is gone."""
        return client.post(f"/v1/scenes/{DOOMED}/render", json={"width": 96, "height": 64})
