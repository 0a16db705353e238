"""The systems of `argus bench serving`: each is started, warmed up, loaded and stopped by one function."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import grpc_load, wrk
from benchmarks.peers.setup import PeerUnavailable, triton_python
from benchmarks.servers import ROOT, answers, argus, free_port, replica_ports, server
from serve.errors import Unavailable

WRK, TRITONCLIENT, NONE = "wrk", "tritonclient aio", "none"
_HEADERS = {"Content-Type": "image/jpeg"}
# Where a process computes with torch: one OpenMP thread, as Argus gives its replicas by default.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass(frozen=True, slots=True)
class Job:
    """One model under one load.

    Attributes:
        checkpoint: folder of the CLIP.
        decode: `exact` or `scaled`, for every system alike.
        connections: requests in progress.
        seconds: the measured window.
        warm_up_s: load before it, not measured.
    """

    checkpoint: Path
    decode: str
    files: tuple[Path, ...]
    connections: int
    seconds: float
    warm_up_s: float


@dataclass(frozen=True, slots=True)
class System:
    """One row of the table.

    Attributes:
        kind: `limit`, `argus` or `peer`; peers are compared with the Argus row of the same generator.
        measure: starts it, loads it, stops it; gives the row's figures.
    """

    title: str
    kind: str
    generator: str
    measure: Callable[[Job], dict[str, Any]]


def raw(job: Job) -> dict[str, Any]:
    """The model alone, see `peers.raw`; its rates stand in the row under their own names."""
    rates = _raw(job, job.seconds, "all")
    return {"per_s": rates["forward_per_s"], "p50_s": rates["forward_p50_s"], "failed": 0, **rates}


def forward_rate(job: Job) -> float:
    """Images a second of the forward pass now, from a third of the window."""
    return _raw(job, job.seconds / 3, "forward")["forward_per_s"]


def _raw(job: Job, seconds: float, what: str) -> dict[str, float]:
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as listing:
        listing.write("\n".join(str(path) for path in job.files))
        listing.flush()
        command = [sys.executable, "-m", "benchmarks.peers.raw", str(job.checkpoint), job.decode, listing.name]
        done = subprocess.run(
            [*command, str(seconds), what],
            cwd=ROOT,
            env={**os.environ, **_ONE_THREAD},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise Unavailable(f"The raw run failed: {done.stderr[-2000:]}")
    rates: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return rates


def argus_http(job: Job) -> dict[str, Any]:
    """POST /v1/embeddings with the file as body."""
    with _argus(job) as (http, _):
        return _wrk(f"{http}/v1/embeddings", job)


def argus_grpc(job: Job) -> dict[str, Any]:
    """ModelInfer of clip.image_embedding."""
    with _argus(job) as (_, grpc):
        return _grpc(grpc, "clip.image_embedding", (1,), job)


def ray_default(job: Job) -> dict[str, Any]:
    """Ray Serve as it comes."""
    return _ray("default", job)


def ray_tuned(job: Job) -> dict[str, Any]:
    """Ray Serve behind Argus' ingress."""
    return _ray("tuned", job)


def litserve(job: Job) -> dict[str, Any]:
    """LitServe."""
    port = free_port(18_200)
    command = [sys.executable, "-m", "benchmarks.peers.litserve_clip", str(port), str(job.checkpoint), job.decode]
    with server("bench-litserve", command, answers(f"http://127.0.0.1:{port}/health"), _ONE_THREAD):
        return _wrk(f"http://127.0.0.1:{port}/embed", job)


def triton(job: Job) -> dict[str, Any]:
    """Triton through PyTriton."""
    try:
        python = triton_python()
    except PeerUnavailable as problem:
        raise Unavailable(str(problem)) from None
    ports = [free_port(first) for first in (18_300, 19_300, 19_400)]
    command = [str(python), "-m", "benchmarks.peers.triton_clip", *map(str, ports), str(job.checkpoint), job.decode]
    ready = answers(f"http://127.0.0.1:{ports[0]}/v2/models/clip/ready")
    with server("bench-triton", command, ready, _ONE_THREAD):
        return _grpc(f"127.0.0.1:{ports[1]}", "clip", (1, 1), job)


SYSTEMS: Mapping[str, System] = {
    "raw": System("raw forward pass", "limit", NONE, raw),
    "argus-http": System("Argus, HTTP", "argus", WRK, argus_http),
    "argus-grpc": System("Argus, gRPC", "argus", TRITONCLIENT, argus_grpc),
    "ray-default": System("Ray Serve, defaults", "peer", WRK, ray_default),
    "ray-tuned": System("Ray Serve, Argus' flags", "peer", WRK, ray_tuned),
    "litserve": System("LitServe", "peer", WRK, litserve),
    "triton": System("Triton (PyTriton)", "peer", TRITONCLIENT, triton),
}


@contextmanager
def _argus(job: Job) -> Iterator[tuple[str, str]]:
    model = {
        "kind": "clip",
        "checkpoint": str(job.checkpoint),
        "image_decode": job.decode,
        "placement": {"num_cpus": 0.5},
    }
    cluster = {
        "node_pools": {"local": {"cpus": 2}},
        "models": {"clip": model},
        "router": {"num_cpus": 0.5},
        "limits": {"default_timeout_s": 60},
    }
    with argus("bench-serving", cluster) as addresses:
        yield addresses


def _ray(ingress: str, job: Job) -> dict[str, Any]:
    port = free_port(18_100)
    command = [sys.executable, "-m", "benchmarks.peers.ray_clip", str(port), str(job.checkpoint), job.decode, ingress]
    address = f"http://127.0.0.1:{port}"
    with server("bench-ray", command, answers(f"{address}/ready"), _ONE_THREAD | replica_ports(29_300)):
        return _wrk(f"{address}/embed", job)


def _wrk(url: str, job: Job) -> dict[str, Any]:
    load = wrk.post(
        url,
        job.files,
        _HEADERS,
        connections=job.connections,
        seconds=job.warm_up_s + job.seconds,
        warm_up_s=job.warm_up_s,
    )
    return asdict(load)


def _grpc(target: str, model: str, shape: tuple[int, ...], job: Job) -> dict[str, Any]:
    load = grpc_load.infer(
        target,
        model,
        job.files,
        shape,
        connections=job.connections,
        seconds=job.warm_up_s + job.seconds,
        warm_up_s=job.warm_up_s,
    )
    return asdict(load)
