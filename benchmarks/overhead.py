"""`argus bench overhead`: what Argus' router costs, beside the least that Ray Serve can do with two deployments.

Both run behind the same HAProxy with the same flags, in Ray instances of their own, both up at once and loaded in turn,
round by round, so that a slow minute of the machine hits both. Argus does all it does in production: key, deadline,
validation of the image, admission, metrics, a log line a request. Another Argus can run beside them with tracing on and
a collector on this machine.
"""

from __future__ import annotations

import random
import secrets
import statistics
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import material, wrk
from benchmarks.collector import collector
from benchmarks.report import Column, Report, this_command
from benchmarks.servers import answers, argus, free_port, replica_ports, server
from serve.auth import hash_key
from serve.errors import Unavailable

LEAST_RATIO = 0.8
GOAL = f"Argus serves >= {LEAST_RATIO:.0%} of the requests a second of the bare FastAPI application"
NAMES = {
    "argus": "Argus",
    "fastapi": "bare Ray, FastAPI ingress",
    "asgi": "bare Ray, raw ASGI ingress",
    "untraced": "Argus with tracing, of no request",
    "traced_1": "Argus with tracing, of 1 % of requests",
    "traced_all": "Argus with tracing, of every request",
}
_IMAGE_BYTES = 10_000
# A client's trace (https://www.w3.org/TR/trace-context/); the flag behind it says whether it is sampled.
_PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7"
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


def cluster(key: str, collector: str | None = None) -> dict[str, Any]:
    """Argus with the no-op model and one API key.

    Args:
        collector: address that one request in a hundred is traced to, and each whose client asks for it.
    """
    traced = {"endpoint": collector, "sample_ratio": 0.01, "max_traces_per_s": 10_000}
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
        **({} if collector is None else {"tracing": traced}),
    }


def run(*, rounds: int, seconds: float, connections: int, tracing: bool = False) -> Report:
    """Loads the systems in turn, in a new order every round.

    Args:
        tracing: also an Argus with tracing on.

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
    with systems(tracing=tracing) as targets:
        loads: dict[str, list[wrk.Load]] = {name: [] for name in targets}
        for target in targets.values():
            _load(target, files, connections, 2.0)
        order = list(targets)
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
def systems(*, tracing: bool = False) -> Iterator[dict[str, Target]]:
    """Argus and both bare applications, running; with tracing, the same Argus again by who is traced.

    Raises:
        Unavailable: one did not start, or no span arrived.
    """
    key = secrets.token_urlsafe(32)
    port = free_port(18_100)
    bare = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "benchmarks.peers.bare", str(port)]
    ours = {"Authorization": f"Bearer {key}", "X-Argus-Timeout-Ms": "10000", "Content-Type": "image/jpeg"}
    theirs = {"Content-Type": "image/jpeg"}
    path = "/v1/classify?labels=red,green,blue"
    with ExitStack() as stack:
        http, _ = stack.enter_context(argus("bench-overhead", cluster(key)))
        stack.enter_context(server("bench-bare", command, answers(f"{bare}/asgi/ready"), replica_ports(29_300)))
        targets = {
            "argus": Target(f"{http}{path}", ours),
            "fastapi": Target(f"{bare}/fastapi{path}", theirs),
            "asgi": Target(f"{bare}/asgi{path}", theirs),
        }
        if not tracing:
            yield targets
            return
        sink = stack.enter_context(collector())
        traced, _ = stack.enter_context(
            argus("bench-overhead-traced", cluster(key, sink.address), first_replica_port=29_600)
        )
        yield targets | {
            "untraced": Target(f"{traced}{path}", {**ours, "traceparent": f"{_PARENT}-00"}),
            "traced_1": Target(f"{traced}{path}", ours),
            "traced_all": Target(f"{traced}{path}", {**ours, "traceparent": f"{_PARENT}-01"}),
        }
        if not sink.received_bytes:
            raise Unavailable("Tracing was on, and no span arrived.")


def _load(target: Target, files: list[Path], connections: int, seconds: float) -> wrk.Load:
    return wrk.post(target.url, files, target.headers, connections=connections, seconds=seconds)
