"""Image search under load and under fire: items added and searched through the API, and a kill -9 in the middle."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import psutil

from benchmarks.report import Column, Report, this_command
from benchmarks.servers import argus

GOAL = "every item is added and found again; a killed index loses no acknowledged item"
_DIMENSION = 128
_BATCH = 100
_CALLERS = 4
_COLUMNS = (
    Column("step", "step"),
    Column("count", "count", "d"),
    Column("seconds", "seconds", ".1f"),
    Column("per_s", "per second", ".0f"),
    Column("result", "result"),
)


def run(*, items: int, searches: int, seed: int) -> Report:
    """Starts the demo cluster and works one index.

    Raises:
        Unavailable: the cluster did not start.
    """
    report = Report(
        this_command(),
        f"Image search: {items} vectors of {_DIMENSION} dimensions, batches of {_BATCH}, {_CALLERS} callers",
        GOAL,
        _COLUMNS,
        {"items": items, "searches": searches, "seed": seed, "batch": _BATCH, "callers": _CALLERS},
    )
    vectors = np.random.default_rng(seed).normal(size=(items, _DIMENSION)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: {"path": f"{folder}/{name}"} for name in ("index", "sessions", "jobs")}
        cluster = {"extends": "demo", "models": paths}
        with argus("index", cluster) as (address, _), httpx.Client(base_url=address, timeout=60) as client:
            client.put("/v1/indexes/bench", json={"dimension": _DIMENSION}).raise_for_status()
            _add(report, client, vectors)
            _search(report, client, vectors, searches)
            _kill(report, client, vectors)
    return report


def _row(report: Report, step: str, count: int, started: float, result: str) -> None:
    seconds = time.monotonic() - started
    report.rows.append({"step": step, "count": count, "seconds": seconds, "per_s": count / seconds, "result": result})


def _items(vectors: np.ndarray[Any, Any], first: int, last: int, prefix: str) -> list[dict[str, Any]]:
    return [
        {"id": f"{prefix}{i}", "vector": vectors[i].tolist(), "metadata": {"number": i, "even": i % 2 == 0}}
        for i in range(first, min(last, len(vectors)))
    ]


def _add(report: Report, client: httpx.Client, vectors: np.ndarray[Any, Any]) -> None:
    started = time.monotonic()

    def batch(first: int) -> int:
        body = {"items": _items(vectors, first, first + _BATCH, "a")}
        answer = client.post("/v1/indexes/bench/items", json=body)
        return int(answer.raise_for_status().json()["added"])

    with ThreadPoolExecutor(_CALLERS) as callers:
        added = sum(callers.map(batch, range(0, len(vectors), _BATCH)))
    held = client.get("/v1/indexes/bench").json()["count"]
    _row(report, "add", added, started, f"{held} held")
    if held != len(vectors):
        report.misses.append(f"{held} items are held, {len(vectors)} were added")


def _search(report: Report, client: httpx.Client, vectors: np.ndarray[Any, Any], searches: int) -> None:
    chosen = np.random.default_rng(1).integers(len(vectors), size=searches).tolist()

    def one(i: int) -> bool:
        body = {"vector": vectors[i].tolist(), "k": 10, "filter": {"even": i % 2 == 0}}
        hits = client.post("/v1/indexes/bench/search", json=body).raise_for_status().json()["hits"]
        return len(hits) == 10 and bool(hits[0]["id"] == f"a{i}")

    plain = time.monotonic()
    with ThreadPoolExecutor(_CALLERS) as callers:
        right = sum(callers.map(one, chosen))
    _row(report, "search, filtered, k 10", searches, plain, f"{right} found themselves first")
    if right != searches:
        report.misses.append(f"{searches - right} of {searches} items did not find themselves")


def _kill(report: Report, client: httpx.Client, vectors: np.ndarray[Any, Any]) -> None:
    """Adds one by one in several threads; half-way the index's process is killed."""
    acknowledged: list[str] = []
    half = threading.Event()
    started = time.monotonic()
    total = min(2000, len(vectors))

    def one(i: int) -> None:
        body = {"items": _items(vectors, i, i + 1, "k")}
        try:
            answer = client.post("/v1/indexes/bench/items", json=body, headers={"X-Argus-Timeout-Ms": "5000"})
        except httpx.TransportError:
            return
        if answer.status_code == 200:
            acknowledged.append(f"k{i}")
        else:
            time.sleep(0.05)
        if i == total // 2:
            half.set()

    with ThreadPoolExecutor(_CALLERS + 1) as callers:
        work = [callers.submit(one, i) for i in range(total)]
        half.wait(120)
        victim = next(p for p in psutil.process_iter(["cmdline"]) if _is_index(p))
        os.kill(victim.pid, signal.SIGKILL)
        for job in work:
            job.result()
    _until_back(client)
    lost = [name for name in acknowledged if client.get(f"/v1/indexes/bench/items/{name}").status_code != 200]
    _row(report, "add with kill -9 half-way", len(acknowledged), started, f"{len(lost)} acknowledged items lost")
    report.notes.append(f"{total - len(acknowledged)} of {total} adds met the dead process and got an error instead.")
    if lost:
        report.misses.append(f"lost although acknowledged: {', '.join(lost[:10])}")


def _is_index(process: psutil.Process) -> bool:
    return "ServeReplica:argus:index" in " ".join(process.info["cmdline"] or [])


def _until_back(client: httpx.Client) -> None:
    for _ in range(300):
        try:
            if client.get("/v1/indexes/bench", headers={"X-Argus-Timeout-Ms": "2000"}).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
