"""10,000 mixed requests, a hundredth of them poisoned: nothing good is lost, nothing bad gets through, memory is flat.

Good requests are generated scenes whose label is known, sent in every way the API has. Bad ones are what clients send
by mistake or malice; each has the error code it must get.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import psutil
from PIL import Image

from benchmarks.report import Column, Report, this_command
from benchmarks.servers import argus
from demo.scenes import COLOURS, SHAPES, render, sample_scene

GOAL = "every good request answered right, every bad one refused with its code, no hang, resident memory flat"
# Memory is read after a warm-up of this share of the requests: caches and arenas fill first.
_WARM_UP_SHARE = 0.2
# Growth from there to the end that still counts as flat, in all processes together.
_FLAT_SHARE = 0.03
_REQUEST_TIMEOUT_S = 60.0
_COLUMNS = (
    Column("kind", "request"),
    Column("sent", "sent", "d"),
    Column("right", "answered as it must be", "d"),
    Column("expected", "expected"),
)

_LABELS = [f"a {colour} {shape}" for colour in COLOURS for shape in SHAPES]
_SCENES = 200


def _png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (90, 120, 150)).save(buffer, "PNG")
    return buffer.getvalue()


def _jpeg(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def _bad_images() -> dict[str, tuple[bytes, str, str]]:
    """Kind -> (bytes, declared type, error code)."""
    scene = _jpeg(render(sample_scene(0, split="test", difficulty="easy"), 224))
    return {
        "truncated": (scene[: len(scene) // 2], "image/jpeg", "truncated_image"),
        "one pixel": (_png(1, 1), "image/png", "image_too_small"),
        "50,000 wide": (_png(50_000, 8), "image/png", "image_too_large"),
        "wrong type": (scene, "image/png", "image_type_mismatch"),
        "empty": (b"", "image/jpeg", "empty_image"),
        "text": (b"this is not an image, it is a sentence", "image/jpeg", "not_an_image"),
    }


BAD_KINDS = tuple(_bad_images())


@dataclass(frozen=True, slots=True)
class MixedRequest:
    """One request and what its answer must be.

    Attributes:
        kind: `good`, or one of BAD_KINDS.
        expected: the label of a good one, the error code of a bad one.
    """

    kind: str
    expected: str
    options: dict[str, Any] = field(repr=False)

    async def send(self, client: httpx.AsyncClient) -> httpx.Response:
        """Sends it."""
        return await client.post("/v1/classify", **self.options)

    def complaint(self, answer: httpx.Response) -> str | None:
        """What is wrong with the answer; None when it is right."""
        body = answer.json()
        if self.kind == "good":
            found = body["results"][0]["label"] if answer.status_code == 200 else body
        else:
            found = body["error"]["code"] if 400 <= answer.status_code < 500 else body
        return None if found == self.expected else f"{self.kind}: expected {self.expected}, got {found}"


def mixed_requests(count: int, *, bad_share: float, seed: int) -> Iterator[MixedRequest]:
    """`count` requests in random order. A good scene is one that plain transformers labels right too."""
    random = np.random.default_rng(seed)
    good = _good_images()
    bad = _bad_images()
    for i in range(count):
        if random.random() < bad_share:
            kind = BAD_KINDS[int(random.integers(len(BAD_KINDS)))]
            data, declared, code = bad[kind]
            yield MixedRequest(kind, code, _file(data, declared) if random.random() < 0.5 else _raw(data, declared))
        else:
            label, data = good[int(random.integers(len(good)))]
            ways = (_file, _raw, _json)
            yield MixedRequest("good", label, ways[i % 3](data, "image/jpeg"))


def _good_images() -> list[tuple[str, bytes]]:
    """(label, JPEG) of scenes; only those that the checkpoint itself gets right, so that an error is serving's."""
    from benchmarks.reference import predicted_labels

    scenes = [sample_scene(i, split="test", difficulty="easy") for i in range(_SCENES)]
    labels = [f"a {scene.objects[0].colour} {scene.objects[0].shape}" for scene in scenes]
    files = [_jpeg(render(scene, 224)) for scene in scenes]
    predicted = predicted_labels(files, _LABELS)
    return [(label, file) for label, file, found in zip(labels, files, predicted, strict=True) if found == label]


def _file(data: bytes, declared: str) -> dict[str, Any]:
    return {"files": {"image": ("image", data, declared)}, "data": {"labels": json.dumps(_LABELS), "top_k": "1"}}


def _raw(data: bytes, declared: str) -> dict[str, Any]:
    return {
        "content": data,
        "headers": {"Content-Type": declared},
        "params": {"labels": ",".join(_LABELS), "top_k": 1},
    }


def _json(data: bytes, declared: str) -> dict[str, Any]:
    uri = f"data:{declared};base64,{base64.b64encode(data).decode()}"
    return {"json": {"image": uri, "labels": _LABELS, "top_k": 1}}


def run(*, requests: int, bad_share: float, connections: int, seed: int) -> Report:
    """Starts the demo cluster, sends everything, reads the memory of its processes.

    Raises:
        Unavailable: the cluster did not start.
    """
    report = Report(
        this_command(),
        f"{requests} mixed requests, {bad_share:.0%} poisoned, {connections} connections",
        GOAL,
        _COLUMNS,
        {"requests": requests, "bad_share": bad_share, "connections": connections, "seed": seed},
    )
    mixed = list(mixed_requests(requests, bad_share=bad_share, seed=seed))
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: {"path": f"{folder}/{name}"} for name in ("index", "sessions", "jobs")}
        cluster = {"extends": "demo", "models": paths}
        with argus("poison", cluster) as (address, _):
            complaints, memory = asyncio.run(_send_all(mixed, address, connections))
    wrong = Counter(kind for kind, _ in complaints)
    for kind, sent in sorted(Counter(request.kind for request in mixed).items()):
        codes = {request.expected for request in mixed if request.kind == kind}
        expected = "the scene's label" if kind == "good" else ", ".join(codes)
        report.rows.append({"kind": kind, "sent": sent, "right": sent - wrong[kind], "expected": expected})
    report.misses.extend(text for _, text in complaints[:10])
    warm, end = memory
    growth = (end - warm) / warm
    report.notes.append(
        f"Resident memory of all processes: {warm / 1e6:.0f} MB after the first fifth, {end / 1e6:.0f} MB at the end "
        f"({growth:+.1%})."
    )
    if growth > _FLAT_SHARE:
        report.misses.append(f"resident memory grew by {growth:.1%}; flat means at most {_FLAT_SHARE:.0%}")
    return report


async def _send_all(
    mixed: list[MixedRequest], address: str, connections: int
) -> tuple[list[tuple[str, str]], tuple[int, int]]:
    """Complaints as (kind, text), and memory after the warm-up and at the end, in bytes."""
    complaints: list[tuple[str, str]] = []
    warm_up = int(len(mixed) * _WARM_UP_SHARE)
    limits = httpx.Limits(max_connections=connections)
    async with httpx.AsyncClient(
        base_url=address, timeout=_REQUEST_TIMEOUT_S, limits=limits, trust_env=False
    ) as client:
        await _send_some(mixed[:warm_up], client, connections, complaints)
        warm = _resident(address)
        await _send_some(mixed[warm_up:], client, connections, complaints)
    return complaints, (warm, _resident(address))


async def _send_some(
    mixed: list[MixedRequest], client: httpx.AsyncClient, connections: int, complaints: list[tuple[str, str]]
) -> None:
    waiting = iter(mixed)

    async def connection() -> None:
        for request in waiting:
            try:
                complaint = request.complaint(await request.send(client))
            except (httpx.HTTPError, ValueError, KeyError) as error:
                complaint = f"{request.kind}: {type(error).__name__}: {error}"
            if complaint is not None:
                complaints.append((request.kind, complaint))

    await asyncio.gather(*(connection() for _ in range(connections)))


def _resident(address: str) -> int:
    """Unshared memory of this cluster's replicas and of its HAProxy, in bytes."""
    port = int(address.rpartition(":")[2])
    parents = {c.pid for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN and c.laddr.port == port}
    total = 0
    for process in psutil.process_iter(["name", "cmdline"]):
        title = " ".join(process.info["cmdline"] or [])
        if process.pid in parents or "ServeReplica:argus" in title:
            total += process.memory_full_info().uss
    return total
