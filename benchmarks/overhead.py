"""`argus bench overhead`: what Argus' router costs, beside the least that Ray Serve can do with two deployments.

Both run behind the same HAProxy with the same flags, in Ray instances of their own, both up at once and loaded in turn,
round by round, so that a slow minute of the machine hits both. Argus does all it does in production: key, deadline,
validation of the image, admission, metrics, a log line a request.
"""

from __future__ import annotations

import random
import secrets
import statistics
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import material, wrk
from benchmarks.report import Column, Report, this_command
from benchmarks.servers import answers, argus, free_port, replica_ports, server
from serve.auth import hash_key

LEAST_RATIO = 0.8
GOAL = f"Argus serves >= {LEAST_RATIO:.0%} of the requests a second of the bare FastAPI application"
NAMES = {"argus": "Argus", "fastapi": "bare Ray, FastAPI ingress", "asgi": "bare Ray, raw ASGI ingress"}
_IMAGE_BYTES = 10_000
_COLUMNS = (
    Column("system", "system"),
    Column("per_s", "requests/s (median)", ".0f"),
    Column("low_per_s", "lowest", ".0f"),
    Column("high_per_s", "highest", ".0f"),
    Column("ratio", "Argus / this", ".2f"),
    Column("p50_ms", "p50 ms", ".1f"),
    Column("p99_ms", "p99 ms", ".1f"),
    Column("failed", "failed", "d"),
)


@dataclass(frozen=True, slots=True)
class Target:
    """Where one system is asked, and with which headers."""

    url: str
    headers: Mapping[str, str]


def cluster(key: str) -> dict[str, Any]:
    """Argus with the no-op model and one API key."""
    return {
        "node_pools": {"local": {"cpus": 2}},
        "models": {
            "noop": {
                "kind": "custom",
                "implementation": "benchmarks.noop:NoopModel",
                "tasks": ["classify"],
                "placement": {"num_cpus": 0.2},
            }
        },
        "router": {"num_cpus": 0.2},
        "auth": {"keys": [{"name": "bench", "sha256": hash_key(key)}]},
    }


def run(*, rounds: int, seconds: float, connections: int) -> Report:
    """Loads the systems in turn, in a new order every round.

    Raises:
        Unavailable: wrk is missing, or a system did not start.
    """
    wrk.wrk_path()
    files = material.jpegs(1, _IMAGE_BYTES, long_side=320)
    report = Report(
        this_command(),
        f"Router overhead: POST /v1/classify, {_IMAGE_BYTES // 1000} KB JPEG, no-op model, {connections} connections",
        GOAL,
        _COLUMNS,
        {"rounds": rounds, "seconds": seconds, "connections": connections, "image_bytes": material.mean_bytes(files)},
    )
    loads: dict[str, list[wrk.Load]] = {name: [] for name in NAMES}
    with systems() as targets:
        for target in targets.values():
            _load(target, files, connections, 2.0)
        order = list(NAMES)
        for number in range(rounds):
            random.Random(number).shuffle(order)
            for name in order:
                loads[name].append(_load(targets[name], files, connections, seconds))
    report.rows = rows(loads)
    report.notes = [
        "wrk, one thread, a closed loop; systems loaded in turn, order shuffled every round.",
        "Argus with API key, deadline header, image validation, admission, metrics and request log; the bare "
        "applications with none of these. Same HAProxy, same Ray Serve flags.",
    ]
    ratio = report.rows[1]["ratio"]
    if ratio < LEAST_RATIO:
        report.misses.append(f"Argus serves {ratio:.0%} of what the bare FastAPI application serves")
    report.misses += [f"{row['system']}: {row['failed']} requests failed" for row in report.rows if row["failed"]]
    return report


def rows(loads: Mapping[str, list[wrk.Load]]) -> list[dict[str, Any]]:
    """One row a system, medians over the rounds."""
    medians = {name: statistics.median(load.per_s for load in some) for name, some in loads.items()}
    return [
        {
            "system": NAMES[name],
            "per_s": medians[name],
            "low_per_s": min(load.per_s for load in some),
            "high_per_s": max(load.per_s for load in some),
            "ratio": medians["argus"] / medians[name],
            "p50_ms": 1e3 * statistics.median(load.p50_s for load in some),
            "p99_ms": 1e3 * statistics.median(load.p99_s for load in some),
            "failed": sum(load.failed for load in some),
            "rounds_per_s": [load.per_s for load in some],
        }
        for name, some in loads.items()
    ]


@contextmanager
def systems() -> Iterator[dict[str, Target]]:
    """Argus and both bare applications, running."""
    key = secrets.token_urlsafe(32)
    port = free_port(18_100)
    bare = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "benchmarks.peers.bare", str(port)]
    ours = {"Authorization": f"Bearer {key}", "X-Argus-Timeout-Ms": "10000", "Content-Type": "image/jpeg"}
    theirs = {"Content-Type": "image/jpeg"}
    with (
        argus("bench-overhead", cluster(key)) as (http, _),
        server("bench-bare", command, answers(f"{bare}/asgi/ready"), replica_ports(29_300)),
    ):
        yield {
            "argus": Target(f"{http}/v1/classify?labels=red,green,blue", ours),
            "fastapi": Target(f"{bare}/fastapi/v1/classify?labels=red,green,blue", theirs),
            "asgi": Target(f"{bare}/asgi/v1/classify?labels=red,green,blue", theirs),
        }


def _load(target: Target, files: list[Path], connections: int, seconds: float) -> wrk.Load:
    return wrk.post(target.url, files, target.headers, connections=connections, seconds=seconds)
