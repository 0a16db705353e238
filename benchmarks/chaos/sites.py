"""The clusters that things break in. Each is started by what starts it for its users; no model of theirs computes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import yaml

from benchmarks.chaos import engines, skewed_clock
from benchmarks.chaos.model import FOLDER
from benchmarks.chaos.site import KEY, Site, Skipped, short_folder
from benchmarks.chaos.two_nodes import two_nodes
from benchmarks.fake_providers import KEY as PROVIDER_KEY
from benchmarks.fake_providers import FakeOpenAI, in_thread
from benchmarks.redis_server import NotInstalled, RedisServer, redis_server
from benchmarks.servers import free_port, server, up
from serve.auth import hash_key

DISK_BYTES: Final = 8 * 1024 * 1024
_ANSWER: Final = "It is a teal square, and there is little more to be said of it."
# Figures of the routers are exported each second, not each ten.
_EXPORT: Final = {"RAY_metrics_report_interval_ms": "1000"}


def content(folder: Path, providers: Mapping[str, str], redis_url: str | None = None) -> dict[str, Any]:
    """The cluster file of all sites: two routers, a scripted model twice, one beside it, every kind of store.

    Args:
        providers: addresses of hosted models, by name.
    """

    def custom(implementation: str, replicas: int = 1) -> dict[str, Any]:
        return {
            "kind": "custom",
            "implementation": implementation,
            "tasks": ["classify"],
            "autoscaling": {"min_replicas": replicas, "max_replicas": replicas},
            "placement": {"num_cpus": 0.1},
        }

    def store(kind: str, **options: Any) -> dict[str, Any]:
        return {"kind": kind, "path": str(folder / kind), "placement": {"num_cpus": 0.05}, **options}

    key_file = folder / "provider.key"
    key_file.write_text(PROVIDER_KEY, encoding="ascii")
    hosted: dict[str, Any] = {
        name: {"kind": "openai", "model": "gpt-4o", "base_url": address, "api_key_file": str(key_file)}
        for name, address in providers.items()
    }
    step = {"name": "ask", "use": "hosted", "task": "answer", "deadline_share": 0.5}
    fallback = [{"on": ["timeout", "unavailable", "rate_limited"], "use": "spare"}]
    return {
        "auth": {"keys": [{"name": "chaos", "sha256": hash_key(KEY)}]},
        "node_pools": {"local": {"cpus": 2}},
        "router": {"replicas": 2, "num_cpus": 0.1},
        "models": {
            "staged": custom("benchmarks.chaos.model:Staged", replicas=2),
            "neighbour": custom("benchmarks.noop:NoopModel"),
            "index": store("vector_index"),
            "sessions": store("session_store"),
            "jobs": store("job_store", lease_s=5),
        },
        "providers": hosted,
        "cascades": {"chain": {"answer": "text", "steps": [{**step, "fallback": fallback}]}} if hosted else {},
        "resilience": {"cache": {"enabled": False}, **({"redis": {"url": redis_url}} if redis_url else {})},
    }


@contextmanager
def main(*, tuned: bool = True, environment: Mapping[str, str] | None = None) -> Iterator[Site]:
    """One node with HAProxy, two hosted models, and a Redis where there is one."""
    with ExitStack() as stack:
        folder = stack.enter_context(short_folder())
        hosted = stack.enter_context(in_thread(FakeOpenAI(_ANSWER, latency_s=0.03, event_s=0.1)))
        spare = stack.enter_context(in_thread(FakeOpenAI(_ANSWER, latency_s=0.03, event_s=0.1)))
        redis = _redis(stack, folder)
        disk = folder / "vector_index"
        parts = {"hosted": hosted, "spare": spare, "redis": redis, "disk": stack.enter_context(_small_disk(disk))}
        providers = {"hosted": hosted.base_url, "spare": spare.base_url}
        file = content(folder, providers, redis.url if redis else None)
        yield stack.enter_context(_one_node("chaos" if tuned else "plain", file, folder, parts, tuned, environment))


@contextmanager
def plain() -> Iterator[Site]:
    """The same behind Ray Serve's own proxy."""
    with main(tuned=False) as site:
        yield site


@contextmanager
def clock() -> Iterator[Site]:
    """The same with a time of day that can be set."""
    with short_folder() as folder:
        offset, environment = skewed_clock.installed(folder)
        with main(environment=environment) as site:
            site.parts = {**site.parts, "clock": offset}
            yield site


@contextmanager
def nodes() -> Iterator[Site]:
    """Two nodes of one cluster, which Ray takes for two machines, with its tables in a Redis."""
    with ExitStack() as stack:
        folder = stack.enter_context(short_folder())
        redis = _redis(stack, folder)
        if redis is None:
            raise Skipped("redis-server is not installed here (Debian: apt-get install redis-server)")
        ports = _ports()
        path = _write("nodes", content(folder, {}), folder, ports, tuned=True)
        environment = {**_EXPORT, FOLDER: str(folder), "RAY_REDIS_ADDRESS": f"127.0.0.1:{redis.port}"}
        control = stack.enter_context(two_nodes(path, folder, {**os.environ, **environment}))
        site = _site("nodes", ports, control.pid, folder, {"control": control})
        try:
            yield site
        finally:
            site.processes()
            stack.callback(site.end_orphans)


@contextmanager
def writers() -> Iterator[Site]:
    """One node with models that write text, on both engines."""
    models = engines.models()
    with short_folder() as folder:
        file = content(folder, {})
        beside = {"neighbour": file["models"]["neighbour"], **models}
        with _one_node("engines", {**file, "models": beside}, folder, {}, tuned=True, environment=None) as site:
            yield site


SITES: Final[Mapping[str, Callable[[], AbstractContextManager[Site]]]] = {
    "main": main,
    "plain": plain,
    "nodes": nodes,
    "clock": clock,
    "engines": writers,
}
"""By name; each raises `Skipped` where it cannot be."""


@contextmanager
def _one_node(
    name: str,
    file: Mapping[str, Any],
    folder: Path,
    parts: Mapping[str, Any],
    tuned: bool,
    environment: Mapping[str, str] | None,
) -> Iterator[Site]:
    ports = _ports()
    path = _write(name, file, folder, ports, tuned)
    command = [sys.executable, "-m", "serve", "up", "--config", str(path)]
    ours = {**_EXPORT, FOLDER: str(folder), "ARGUS_RUN_DIR": str(folder / "run"), **(environment or {})}
    with server(f"chaos-{name}", command, up(name, folder / "run"), ours) as process:
        site = _site(name, ports, process.pid, folder, parts)
        try:
            yield site
        finally:
            site.processes()
    site.end_orphans()


def _ports() -> list[int]:
    """Of HTTP, gRPC and metrics: below those that the kernel gives to connections, since HAProxy binds them late."""
    return [free_port(18_400), free_port(19_400), free_port(19_900)]


def _site(name: str, ports: list[int], pid: int, folder: Path, parts: Mapping[str, Any]) -> Site:
    http_port, grpc_port, metrics_port = ports
    http, metrics = f"http://127.0.0.1:{http_port}", f"http://127.0.0.1:{metrics_port}/metrics"
    return Site(name, http, f"127.0.0.1:{grpc_port}", metrics, pid, folder, parts)


def _write(name: str, file: Mapping[str, Any], folder: Path, ports: list[int], tuned: bool) -> Path:
    http_port, grpc_port, metrics_port = ports
    addresses = {"http_port": http_port, "grpc_port": grpc_port, "metrics_port": metrics_port, "tuned_ingress": tuned}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"name": name, **file, "server": addresses}), encoding="utf-8")
    return path


def _redis(stack: ExitStack, folder: Path) -> RedisServer | None:
    try:
        return stack.enter_context(redis_server(folder))
    except NotInstalled:
        return None


@contextmanager
def _small_disk(folder: Path) -> Iterator[bool]:
    """A file system of `DISK_BYTES` at `folder`, where this process may mount one; whether it did."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    mounted = (
        shutil.which("mount") is not None and subprocess.run(command, capture_output=True, check=False).returncode == 0
    )
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=False)
